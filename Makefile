# zerosearch: see `make help`.
BUILD ?= build
CC ?= gcc
MPICC_FLAGS := $(shell pkg-config --cflags ompi-c)
PACKAGES := ompi-c hdf5-openmpi libconfig jansson libpcre2-8 libutf8proc sqlite3 libcurl zlib
CFLAGS ?= -O3 -march=native -g
ZS_CFLAGS := -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -fopenmp -Iinclude $(shell pkg-config --cflags $(PACKAGES)) \
	-I/usr/include/x86_64-linux-gnu/openblas-openmp
ZS_LIBS := $(shell pkg-config --libs $(PACKAGES)) /usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblas.so \
	-Wl,-rpath,/usr/lib/x86_64-linux-gnu/openblas-openmp -lm

SOURCES := $(wildcard src/*/*.c)
OBJECTS := $(SOURCES:src/%.c=$(BUILD)/%.o)
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c tests/mpi_*.c))

all: $(BUILD)/zerosearch

$(BUILD)/zerosearch: $(BUILD)/main.o $(OBJECTS)
	$(CC) $(CFLAGS) -fopenmp -o $@ $^ $(ZS_LIBS) -no-pie -Wl,-z,lazy -Wl,--unresolved-symbols=ignore-all # until all modules are here

$(BUILD)/libzerosearch.a: $(OBJECTS)
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ZS_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tests/%: tests/%.c $(BUILD)/libzerosearch.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ZS_CFLAGS) -MMD -MP -o $@ $< $(BUILD)/libzerosearch.a $(ZS_LIBS) -lcmocka

tests: $(TESTS)

clean:
	rm -rf $(BUILD)

.PHONY: all tests clean
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

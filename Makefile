# zerosearch: `make help` lists targets and variables, `make info` what they resolved to.
MAKEFLAGS += --no-print-directory
BUILD ?= build
BENCH ?= $(BUILD)/bench.md
PREFIX ?= /usr/local
SHARED ?= $(or $(ZS_SHARED),../shared)
GOLDEN ?= $(SHARED)/golden
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
ifeq ($(origin CC),default)
CC := gcc
endif
CFLAGS ?= -O3 -march=native -g
Q := $(if $(V),,@)
comma := ,

# Nothing here fails where a tool is missing: `demo` and `test` install first and resolve again in a sub-make.
ask = $(shell { $(1); } 2>/dev/null)
pkg = $(call ask,pkg-config $(1))

PACKAGES := libconfig jansson libpcre2-8 libutf8proc sqlite3 libcurl zlib
HDF5_PACKAGE := $(firstword $(foreach p,hdf5-openmpi hdf5-mpich hdf5,$(if $(call pkg,--modversion $(p)),$(p))))
MPI_CFLAGS ?= $(call ask,mpicc --showme:compile || pkg-config --cflags ompi-c || pkg-config --cflags mpich)
MPI_LIBS ?= $(call ask,mpicc --showme:link || pkg-config --libs ompi-c || pkg-config --libs mpich)
HDF5_CFLAGS ?= $(if $(HDF5_PACKAGE),$(call pkg,--cflags $(HDF5_PACKAGE)))
HDF5_LIBS ?= $(if $(HDF5_PACKAGE),$(call pkg,--libs $(HDF5_PACKAGE)),-lhdf5)

# OpenBLAS on the OpenMP runtime, by its own folder: plain -lopenblas may mean the flavour on pthreads.
MULTIARCH := $(or $(call ask,$(CC) -print-multiarch),$(call ask,$(CC) -dumpmachine))
BLAS_FOLDER := $(wildcard /usr/lib/$(MULTIARCH)/openblas-openmp)
ifneq ($(BLAS_FOLDER),)
BLAS_CFLAGS ?= -I/usr/include/$(MULTIARCH)/openblas-openmp
BLAS_LIBS ?= $(BLAS_FOLDER)/libopenblas.so -Wl,-rpath,$(BLAS_FOLDER)
else
BLAS_PACKAGE := $(firstword $(foreach p,openblas-openmp openblaso openblas,$(if $(call pkg,--modversion $(p)),$(p))))
BLAS_CFLAGS ?= $(if $(BLAS_PACKAGE),$(call pkg,--cflags $(BLAS_PACKAGE)))
BLAS_LIBS ?= $(if $(BLAS_PACKAGE),$(call pkg,--libs $(BLAS_PACKAGE)),-lopenblas)
endif

# -std=c11 would forbid fused multiply-add; nothing here reads errno after mathematics
ZS_CFLAGS := -std=c11 -ffp-contract=fast -fno-math-errno -D_GNU_SOURCE -Wall -Wextra -Werror -Wno-psabi -fopenmp -Iinclude $(MPI_CFLAGS) $(HDF5_CFLAGS) \
	$(call pkg,--cflags $(PACKAGES)) $(BLAS_CFLAGS)
# clang links its own OpenMP runtime, which also serves OpenBLAS (it has GNU's entry points and comes first).
# A static OpenBLAS gives the functions by which its kernel is known only where they are asked for.
BLAS_ASKED := $(if $(findstring openblas,$(BLAS_LIBS)),-Wl$(comma)-u$(comma)openblas_get_corename$(comma)-u$(comma)openblas_set_num_threads)
ZS_LIBS := $(BLAS_ASKED) $(LDFLAGS) $(call pkg,--libs $(PACKAGES)) $(HDF5_LIBS) $(MPI_LIBS) $(BLAS_LIBS) -lm

SOURCES := $(wildcard src/*/*.c)
OBJECTS := $(SOURCES:src/%.c=$(BUILD)/%.o)
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c tests/mpi_*.c))
GOLDEN_TESTS := $(filter $(BUILD)/tests/test_golden%,$(TESTS))

all: $(BUILD)/zerosearch $(BUILD)/smoke/model/config.json

$(BUILD)/zerosearch: $(BUILD)/main.o $(BUILD)/libzerosearch.a
	$(if $(Q),@echo "  LINK $@")
	$(Q)$(CC) $(CFLAGS) -fopenmp -o $@ $^ $(ZS_LIBS)

# What configs/smoke.cfg and the tests need; made once.
$(BUILD)/smoke/model/config.json: | $(BUILD)/zerosearch
	$(if $(Q),@echo "  MAKE $(BUILD)/smoke (a small world and model)")
	$(Q)jobs/smoke.sh $(BUILD)

$(BUILD)/libzerosearch.a: $(OBJECTS)
	$(if $(Q),@echo "  AR   $@")
	@rm -f $@
	$(Q)ar rcs $@ $^

# Kernels that are chosen at run time are built for their processor, not for this one: the last -march counts.
ifneq ($(filter x86_64%,$(MULTIARCH)),)
$(BUILD)/kernels/rows_avx512bf16.o: KERNEL_FLAGS := -march=x86-64-v4 -mavx512bf16 -mavx512vnni
$(BUILD)/kernels/rows_avx512vnni.o: KERNEL_FLAGS := -march=x86-64-v4 -mavx512vnni
$(BUILD)/kernels/rows_avx512.o: KERNEL_FLAGS := -march=x86-64-v4
$(BUILD)/kernels/rows_avxvnni.o: KERNEL_FLAGS := -march=x86-64-v3 -mavxvnni
$(BUILD)/kernels/rows_avx2.o: KERNEL_FLAGS := -march=x86-64-v3
$(BUILD)/kernels/rows_plain.o: KERNEL_FLAGS := -march=x86-64
endif

$(BUILD)/%.o: src/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC   $<")
	$(Q)$(CC) $(CFLAGS) $(ZS_CFLAGS) $(KERNEL_FLAGS) $(OWN_CFLAGS) -MMD -MP -c -o $@ $<

# What bench says of the program; in main.o alone, so that a commit makes nothing else anew.
COMMIT := $(or $(call ask,git describe --always --dirty),unknown)
$(BUILD)/main.o: private OWN_CFLAGS := -DZS_COMMIT='"$(COMMIT)"' -DZS_COMPILER='"$(notdir $(CC))"' \
	-DZS_FLAGS='"$(subst ",,$(CFLAGS))"'
$(BUILD)/main.o: $(BUILD)/commit
$(BUILD)/commit: FORCE
	@mkdir -p $(@D)
	@echo '$(COMMIT)' | cmp -s - $@ || echo '$(COMMIT)' > $@

$(BUILD)/tests/%: tests/%.c $(BUILD)/libzerosearch.a
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC   $<")
	$(Q)$(CC) $(CFLAGS) $(ZS_CFLAGS) -MMD -MP -o $@ $< $(BUILD)/libzerosearch.a $(ZS_LIBS) -lcmocka

# Other flags make everything anew, and are the moment to say what is missing.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(CFLAGS) $(ZS_CFLAGS) $(ZS_LIBS)' | cmp -s - $@ || { \
		CC='$(CC)' jobs/deps.sh --check || echo "  (make deps installs it, or lists the packages)"; \
		echo '$(CC) $(CFLAGS) $(ZS_CFLAGS) $(ZS_LIBS)' > $@; }

tests: all $(TESTS)
golden-tests: $(GOLDEN_TESTS)

deps:
	@jobs/deps.sh

# Installs only where something is missing, then goes on in a make that sees it.
ready:
	@jobs/deps.sh --check >/dev/null || jobs/deps.sh

demo: ready
	@$(MAKE) -j$(JOBS) all
	@ZS=$(BUILD)/zerosearch jobs/demo.sh

paper: ready
	@$(MAKE) -j$(JOBS) all
	@ZS=$(BUILD)/zerosearch jobs/paper.sh

test: ready
	@$(MAKE) -j$(JOBS) tests
	@ZS_SHARED='$(SHARED)' tests/run.sh $(BUILD)

test-golden: ready
	@$(MAKE) -j$(JOBS) golden-tests
	@ZS_SHARED='$(SHARED)' ZS_GOLDEN='$(abspath $(GOLDEN))' tests/run.sh $(BUILD) 'test_golden*'

test-asan: ready
	@$(MAKE) BUILD=$(BUILD)/asan \
		CFLAGS="-O1 -g -march=native -fno-omit-frame-pointer -fsanitize=address,undefined" test

bench: all
	@ZS=$(BUILD)/zerosearch jobs/bench.sh '$(BENCH)'

lint:
	@BUILD='$(BUILD)' CHECK_FLAGS='$(ZS_CFLAGS)' tests/lint.sh

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/zerosearch
	install -m 755 $(BUILD)/zerosearch $(DESTDIR)$(PREFIX)/bin/zerosearch
	for d in configs jobs analysis; do [ ! -d $$d ] || cp -r $$d $(DESTDIR)$(PREFIX)/share/zerosearch/; done
	[ ! -d configs/prompts ] || cp -r configs/prompts $(DESTDIR)$(PREFIX)/share/zerosearch/

uninstall:
	rm -rf $(DESTDIR)$(PREFIX)/bin/zerosearch $(DESTDIR)$(PREFIX)/share/zerosearch

clean:
	rm -rf $(BUILD)

info:
	@echo 'CC          $(CC)'
	@echo 'CFLAGS      $(CFLAGS)'
	@echo 'MPI_CFLAGS  $(MPI_CFLAGS)'
	@echo 'MPI_LIBS    $(MPI_LIBS)'
	@echo 'BLAS_CFLAGS $(BLAS_CFLAGS)'
	@echo 'BLAS_LIBS   $(BLAS_LIBS)'
	@echo 'HDF5_CFLAGS $(HDF5_CFLAGS)'
	@echo 'HDF5_LIBS   $(HDF5_LIBS)'
	@echo 'BUILD       $(BUILD)'
	@echo 'PREFIX      $(PREFIX)'
	@echo 'SHARED      $(SHARED)'
	@echo 'GOLDEN      $(GOLDEN)'
	@echo 'all flags   $(ZS_CFLAGS)'
	@echo 'all libs    $(ZS_LIBS)'

help:
	@echo 'make TARGET [VARIABLE=VALUE ...]'
	@echo
	@echo '  all          build $(BUILD)/zerosearch'
	@echo '  deps         install what is missing by apt (root or sudo), else print the packages for apt, dnf, Spack'
	@echo '  demo         the whole method on a generated world, in minutes; goes on where it was interrupted'
	@echo '  paper        the paper'\''s tables in miniature, in hours; goes on where it was interrupted (jobs/paper.sh)'
	@echo '  test         every test; ends with a line "N passed, N failed"'
	@echo '  test-golden  the golden tests on the data in GOLDEN'
	@echo '  test-asan    every test under the address and undefined-behaviour sanitizers'
	@echo '  bench        every part beside the machine'\''s limits, as one Markdown table in BENCH; some minutes'
	@echo '  lint         clang-tidy, cppcheck (where present) and the rules of the house'
	@echo '  install      into PREFIX (DESTDIR is heeded); uninstall takes it away'
	@echo '  clean        remove BUILD'
	@echo '  info         print every resolved flag'
	@echo
	@echo '  CC           C compiler: gcc (default) or clang; flags for MPI come from mpicc in PATH'
	@echo '  CFLAGS       $(CFLAGS)'
	@echo '  LDFLAGS      more for the linker'
	@echo '  MPI_CFLAGS, MPI_LIBS     a site'\''s MPI, in place of what mpicc says'
	@echo '  BLAS_CFLAGS, BLAS_LIBS   a site'\''s BLAS with cblas.h, best on the OpenMP runtime:'
	@echo '                           make BLAS_CFLAGS=-I$$OPENBLAS/include BLAS_LIBS="-L$$OPENBLAS/lib -lopenblas"'
	@echo '  HDF5_CFLAGS, HDF5_LIBS   a site'\''s parallel HDF5'
	@echo '  PREFIX       where install puts things ($(PREFIX))'
	@echo '  BUILD        where objects and programs go ($(BUILD))'
	@echo '  SHARED       folder of data that some tests need, skipped where it is missing ($(SHARED))'
	@echo '  GOLDEN       golden data for test-golden ($(GOLDEN))'
	@echo '  BENCH        the table that bench writes ($(BENCH)); BENCH_SHAPE, BENCH_LAYERS: see jobs/bench.sh'
	@echo '  JOBS         compilations at once in demo and test ($(JOBS))'
	@echo '  V=1          show the commands'

.PHONY: all tests golden-tests deps ready demo paper test test-golden test-asan bench lint install uninstall clean info help FORCE
.SECONDARY:
-include $(OBJECTS:.o=.d) $(BUILD)/main.d $(TESTS:=.d)

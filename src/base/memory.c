#include "zerosearch/memory.h"
#include "zerosearch/error.h"
#include "zerosearch/log.h"

#include <malloc.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Large blocks (weights, caches) are aligned to huge pages and offered to them: a tenth of decode time. */
enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20, HUGE_FROM = 4 << 20 };

static void __attribute__((noreturn)) out_of_memory(double bytes) {
    fprintf(
        stderr,
        "zerosearch: out of memory on rank %d (role %s, phase %s): %.1f MiB wanted; use more nodes, fewer "
        "ranks a node or a smaller batch\n",
        zs_log_rank_number(), zs_log_role(), zs_log_phase(), bytes / 1048576.0);
    fflush(stderr);
    abort(); /* a signal, so that mpirun ends the other ranks too */
}

/* Bytes of `count` elements, rounded up to the alignment; ends the program where they cannot be counted. */
static size_t bytes_of(int64_t count, size_t size) {
    ZS_ASSERT(count >= 0, "negative element count %lld", (long long)count);
    size_t bytes;
    if (__builtin_mul_overflow((size_t)count, size, &bytes) || bytes > (size_t)INT64_MAX - ALIGNMENT)
        out_of_memory((double)count * (double)size);
    if (bytes == 0) bytes = 1;
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Bytes that are held now, and at most since the last reset. */
static _Atomic int64_t held, most_held;

static void count(int64_t bytes) {
    int64_t now = atomic_fetch_add(&held, bytes) + bytes, most = atomic_load(&most_held);
    while (now > most && !atomic_compare_exchange_weak(&most_held, &most, now))
        ;
}

static void release(void *memory) {
    if (memory) count(-(int64_t)malloc_usable_size(memory));
    free(memory);
}

int64_t zs_memory_peak(void) {
    return atomic_load(&most_held);
}

void zs_memory_reset_peak(void) {
    atomic_store(&most_held, atomic_load(&held));
}

static void *allocate(size_t bytes) {
    bool huge = bytes >= HUGE_FROM;
    if (huge) bytes = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *memory = aligned_alloc(huge ? HUGE_PAGE : ALIGNMENT, bytes);
    if (!memory) out_of_memory((double)bytes);
    count((int64_t)malloc_usable_size(memory));
    if (huge) madvise(memory, bytes, MADV_HUGEPAGE); /* a wish: refused on some systems */
    return memory;
}

void zs_zero(void *memory, int64_t bytes) {
    enum { PAGE = 4096 };
    int64_t pages = (bytes + PAGE - 1) / PAGE;
#pragma omp parallel if (bytes >= HUGE_FROM)
    {
        int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        int64_t begin = pages * thread / threads * PAGE, end = pages * (thread + 1) / threads * PAGE;
        memset((char *)memory + begin, 0, (size_t)((end < bytes ? end : bytes) - begin));
    }
}

void *zs_alloc(int64_t count, size_t size) {
    size_t bytes = bytes_of(count, size);
    void *memory = allocate(bytes);
    zs_zero(memory, (int64_t)bytes);
    return memory;
}

void *zs_alloc_untouched(int64_t count, size_t size) {
    return allocate(bytes_of(count, size));
}

void *zs_grow(void *array, int64_t old_count, int64_t new_count, size_t size) {
    ZS_ASSERT(old_count >= 0 && new_count >= 0, "growing from %lld to %lld", (long long)old_count,
              (long long)new_count);
    size_t bytes = bytes_of(new_count, size);
    char *fresh = allocate(bytes);
    size_t kept = (size_t)(old_count < new_count ? old_count : new_count) * size;
    if (!array) kept = 0;
    if (kept) memcpy(fresh, array, kept);
    memset(fresh + kept, 0, bytes - kept);
    release(array);
    return fresh;
}

void zs_free(void *memory) {
    release(memory);
}

char *zs_strdup(const char *text) {
    size_t size = strlen(text) + 1;
    return memcpy(zs_alloc((int64_t)size, 1), text, size);
}

static bool poisoned(void) {
    static int answer = -1;
    if (answer < 0) {
        const char *wish = getenv("ZS_POISON");
        answer = wish && strcmp(wish, "1") == 0;
    }
    return answer;
}

/* All bits set is a NaN as float, double and bf16. */
static void poison(char *begin, int64_t bytes) {
    if (poisoned()) memset(begin, 0xff, (size_t)bytes);
}

zs_arena zs_arena_create(int64_t bytes) {
    zs_arena arena = {0};
    arena.capacity = (int64_t)bytes_of(bytes, 1);
    arena.base = zs_alloc(arena.capacity, 1);
    poison(arena.base, arena.capacity);
    return arena;
}

void zs_arena_destroy(zs_arena *arena) {
    release(arena->base);
    *arena = (zs_arena){0};
}

void *zs_arena_take(zs_arena *arena, int64_t count, size_t size) {
    int64_t bytes = (int64_t)bytes_of(count, size);
    ZS_ASSERT(bytes <= arena->capacity - arena->used, "arena of %lld bytes has %lld left, %lld wanted",
              (long long)arena->capacity, (long long)(arena->capacity - arena->used), (long long)bytes);
    char *memory = arena->base + arena->used;
    arena->used += bytes;
    if (arena->used > arena->peak) arena->peak = arena->used;
    poison(memory, bytes);
    return memory;
}

void zs_arena_reset(zs_arena *arena) {
    arena->used = 0;
}

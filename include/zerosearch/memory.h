/* Memory: aligned allocation that cannot fail quietly, and arenas for work buffers.
 *
 * Out of memory ends the program with one message that says how much was wanted for what.
 * Fresh memory is zeroed; with ZS_POISON=1 in the environment arenas are filled with NaN instead. */
#ifndef ZEROSEARCH_MEMORY_H
#define ZEROSEARCH_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* `count` elements of `size` bytes, zeroed, 64-byte aligned. Never NULL (count 0 gives a valid pointer).
 * Free with zs_free. */
void *zs_alloc(int64_t count, size_t size);

/* The same but not zeroed, nor anywhere in memory yet: each piece of it is to be given to zs_zero. */
void *zs_alloc_untouched(int64_t count, size_t size);
/* Zeroes `bytes`, large blocks by all threads in equal parts. Memory lies near the thread that first writes it,
 * and these are the parts that the loops over rows or parameters (schedule(static)) will give each thread, so
 * fresh memory is zeroed one array at a time. zs_alloc does this with all it gives. */
void zs_zero(void *memory, int64_t bytes);

/* Grows an array from `old_count` to `new_count` elements, the new ones zeroed. Ownership as realloc. */
void *zs_grow(void *array, int64_t old_count, int64_t new_count, size_t size);

void zs_free(void *memory);
char *zs_strdup(const char *text);

/* The most bytes that this process held of what zs_alloc, zs_grow, zs_strdup and zs_arena_create give, since
 * it started or since the last reset, which begins at what is held then. Memory of libraries (MPI, BLAS,
 * HDF5) and memory that ranks share (zs_comm_share) are not in it. */
int64_t zs_memory_peak(void);
void zs_memory_reset_peak(void);

/* A bump allocator of fixed capacity: sized at the start, reset between uses, never grown. */
typedef struct zs_arena {
    char *base;
    int64_t capacity, used, peak; /* bytes */
} zs_arena;

zs_arena zs_arena_create(int64_t bytes);
void zs_arena_destroy(zs_arena *arena);
/* 64-byte aligned, not cleared. Asserts that it fits. */
void *zs_arena_take(zs_arena *arena, int64_t count, size_t size);
void zs_arena_reset(zs_arena *arena);

#define ZS_TAKE(arena, type, count) ((type *)zs_arena_take((arena), (count), sizeof(type)))
#define ZS_NEW(type, count)         ((type *)zs_alloc((count), sizeof(type)))

#endif

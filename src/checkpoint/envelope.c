#include "envelope.h"
#include "zerosearch/memory.h"
#include "zerosearch/strings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define CRC_AT (ZS_ENVELOPE_BYTES - 8) /* the envelope's own CRC: 8 hexadecimal digits at its end */

/* Where the file system cannot reserve: the length is tried, and the part that HDF5's metadata will need is
 * written. A disk that fills up during the arrays is still an error, only a later one. */
static int try_room(int fd, int64_t bytes, int64_t metadata) {
    int fault = ftruncate(fd, bytes) == 0 ? 0 : errno;
    char zeros[4096] = {0};
    for (int64_t at = 0; fault == 0 && at < metadata; at += (int64_t)sizeof zeros)
        if (pwrite(fd, zeros, sizeof zeros, at) != (ssize_t)sizeof zeros) fault = errno ? errno : ENOSPC;
    if (fault == 0 && fsync(fd) != 0) fault = errno;
    return fault;
}

zs_status zs_envelope_reserve(const char *path, int64_t bytes, int64_t metadata, zs_error *err) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return zs_fail(err, ZS_FAILED, "%s: %s", path, strerror(errno));
    struct stat info;
    if (bytes == 0 && fstat(fd, &info) == 0) bytes = info.st_size;
    int fault = fallocate(fd, 0, 0, bytes) == 0 ? 0 : errno;
    if (fault == EOPNOTSUPP || fault == ENOSYS) fault = try_room(fd, bytes, metadata);
    close(fd);
    if (fault)
        return zs_fail(err, ZS_FAILED, "%s: no room for %lld bytes: %s", path, (long long)bytes,
                       strerror(fault));
    return ZS_OK;
}

static int compare_extents(const void *a, const void *b) {
    const zs_extent *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static bool add_crc(int fd, int64_t begin, int64_t end, uLong *crc) {
    enum { CHUNK = 1 << 20 };
    unsigned char *buffer = zs_alloc(CHUNK, 1);
    bool good = true;
    while (good && begin < end) {
        ssize_t got = pread(fd, buffer, (size_t)(end - begin < CHUNK ? end - begin : CHUNK), begin);
        good = got > 0;
        if (good) *crc = crc32(*crc, buffer, (uInt)got);
        begin += got;
    }
    zs_free(buffer);
    return good;
}

/* The CRC of everything behind the envelope that is in no extent; extents are sorted. */
static bool metadata_crc(int fd, int64_t bytes, const zs_extent *extents, int count, uLong *crc) {
    *crc = crc32(0, NULL, 0);
    int64_t at = ZS_ENVELOPE_BYTES;
    for (int i = 0; i < count; i++) {
        if (extents[i].begin < at || extents[i].bytes < 0 || extents[i].bytes > bytes - extents[i].begin)
            return false;
        if (!add_crc(fd, at, extents[i].begin, crc)) return false;
        at = extents[i].begin + extents[i].bytes;
    }
    return add_crc(fd, at, bytes, crc);
}

static uLong own_crc(const char *block) {
    return crc32(crc32(0, NULL, 0), (const unsigned char *)block, CRC_AT);
}

zs_status zs_envelope_seal(const char *path, const zs_extent *extents, int count, zs_error *err) {
    ZS_ASSERT(count <= ZS_ENVELOPE_MAX_ARRAYS, "%d arrays", count);
    zs_extent sorted[ZS_ENVELOPE_MAX_ARRAYS];
    if (count > 0) memcpy(sorted, extents, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare_extents);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat info;
    uLong crc;
    bool good = fd >= 0 && fstat(fd, &info) == 0 && metadata_crc(fd, info.st_size, sorted, count, &crc);
    if (good) {
        char block[ZS_ENVELOPE_BYTES + 1] = {0};
        int used =
            snprintf(block, CRC_AT, "zerosearch checkpoint %d\nbytes %lld\nmetadata %08lx\narrays %d\n",
                     ZS_FORMAT_VERSION, (long long)info.st_size, crc, count);
        for (int i = 0; i < count; i++)
            used += snprintf(block + used, (size_t)(CRC_AT - used), "data %lld %lld\n",
                             (long long)sorted[i].begin, (long long)sorted[i].bytes);
        snprintf(block + CRC_AT, 9, "%08lx", own_crc(block));
        /* The rest must be on disk before the mark that says so. */
        good =
            fsync(fd) == 0 && pwrite(fd, block, ZS_ENVELOPE_BYTES, 0) == ZS_ENVELOPE_BYTES && fsync(fd) == 0;
    }
    zs_status status = good ? ZS_OK : zs_fail(err, ZS_FAILED, "%s: not written: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return status;
}

/* Next whole line of the block as one or two numbers after a word; the block's CRC is checked already. */
static bool read_line(const char **at, const char *word, int base, int64_t *first, int64_t *second) {
    size_t length = strlen(word);
    if (strncmp(*at, word, length) != 0 || (*at)[length] != ' ') return false;
    char *end;
    *first = strtoll(*at + length, &end, base);
    if (second) *second = strtoll(end, &end, base);
    if (*end != '\n') return false;
    *at = end + 1;
    return true;
}

static zs_status check(int fd, const char *path, zs_error *err) {
    char block[ZS_ENVELOPE_BYTES + 1] = {0}, crc_text[9];
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return zs_fail(err, ZS_FAILED, "%s: not a file", path);
    if (pread(fd, block, ZS_ENVELOPE_BYTES, 0) != ZS_ENVELOPE_BYTES)
        return zs_fail(err, ZS_FAILED, "%s: cut short at %lld bytes; not a whole checkpoint", path,
                       (long long)info.st_size);
    const char *at = block;
    int64_t version, bytes, metadata, count;
    if (strncmp(block, "zerosearch checkpoint ", 22) != 0)
        return zs_fail(err, ZS_FAILED, "%s: not a complete zerosearch checkpoint (its mark is missing)",
                       path);
    snprintf(crc_text, sizeof crc_text, "%08lx", own_crc(block));
    if (memcmp(crc_text, block + CRC_AT, 8) != 0)
        return zs_fail(err, ZS_FAILED, "%s: damaged: the CRC-32 of its first %d bytes is wrong", path,
                       ZS_ENVELOPE_BYTES);
    if (!read_line(&at, "zerosearch checkpoint", 10, &version, NULL) || version != ZS_FORMAT_VERSION)
        return zs_fail(err, ZS_FAILED, "%s: format version %.20s; this program reads version %d", path,
                       block + 22, ZS_FORMAT_VERSION);
    zs_extent extents[ZS_ENVELOPE_MAX_ARRAYS];
    bool good = read_line(&at, "bytes", 10, &bytes, NULL) &&
                read_line(&at, "metadata", 16, &metadata, NULL) &&
                read_line(&at, "arrays", 10, &count, NULL) && count >= 0 && count <= ZS_ENVELOPE_MAX_ARRAYS;
    for (int i = 0; good && i < count; i++)
        good = read_line(&at, "data", 10, &extents[i].begin, &extents[i].bytes);
    if (!good) return zs_fail(err, ZS_FAILED, "%s: damaged: its first lines cannot be read", path);
    if (info.st_size != bytes)
        return zs_fail(err, ZS_FAILED, "%s: damaged: %lld bytes long, %lld expected", path,
                       (long long)info.st_size, (long long)bytes);
    uLong crc;
    if (!metadata_crc(fd, bytes, extents, (int)count, &crc) || (int64_t)crc != metadata)
        return zs_fail(err, ZS_FAILED, "%s: damaged: the CRC-32 of its metadata is wrong", path);
    return ZS_OK;
}

zs_status zs_envelope_check(const char *path, zs_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return zs_fail(err, ZS_FAILED, "%s: %s", path, strerror(errno));
    zs_status status = check(fd, path, err);
    close(fd);
    return status;
}

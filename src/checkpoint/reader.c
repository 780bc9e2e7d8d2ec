/* Reading checkpoints in parallel HDF5. What is in the file: store.h. What guards it: envelope.h. The CRCs
 * cover fixed blocks of the global array, so they do not know the layout: each rank checks an even share of
 * the file, then reads its pieces. */
#include "store.h"
#include "zerosearch/memory.h"

#include <stdio.h>
#include <string.h>

#define STRIPE (4 * ZS_CRC_BLOCK) /* elements a rank holds at once: 16 MiB */

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* All ranks return the status and text of the first rank that failed. Collective on comm. */
static zs_status agree(MPI_Comm comm, zs_status status, zs_error *err) {
    int rank, size, first;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    int mine = status ? rank : size;
    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, comm);
    if (first == size) return ZS_OK;
    zs_error said = {.status = status};
    if (rank == first && err) said = *err;
    said.status = rank == first ? status : ZS_OK;
    MPI_Bcast(&said, sizeof said, MPI_BYTE, first, comm);
    if (err) *err = said;
    return said.status;
}

/* The file's model against the one that asks, by the numbers that shape the arrays. */
static zs_status check_model(const char *path, const zs_model_config *file, const zs_model_config *own,
                             zs_error *err) {
    const struct {
        const char *name;
        int64_t file, own;
    } fields[] = {{"model_type", file->architecture, own->architecture},
                  {"vocab_size", file->vocab_size, own->vocab_size},
                  {"hidden_size", file->hidden_size, own->hidden_size},
                  {"intermediate_size", file->intermediate_size, own->intermediate_size},
                  {"num_hidden_layers", file->num_hidden_layers, own->num_hidden_layers},
                  {"num_attention_heads", file->num_attention_heads, own->num_attention_heads},
                  {"num_key_value_heads", file->num_key_value_heads, own->num_key_value_heads},
                  {"head_dim", file->head_dim, own->head_dim},
                  {"attention_bias", file->attention_bias, own->attention_bias},
                  {"tie_word_embeddings", file->tie_word_embeddings, own->tie_word_embeddings},
                  {"value_head", file->value_head, own->value_head}};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (fields[i].file != fields[i].own)
            return zs_fail(err, ZS_FAILED, "%s: its model has %s %lld; the model of this run has %lld", path,
                           fields[i].name, (long long)fields[i].file, (long long)fields[i].own);
    return ZS_OK;
}

static bool read_span(hid_t set, hid_t transfer, int64_t begin, int64_t count, float *out) {
    if (count == 0) return true;
    hsize_t start[1] = {(hsize_t)begin}, length[1] = {(hsize_t)count};
    hid_t source = H5Dget_space(set), memory = H5Screate_simple(1, length, NULL);
    H5Sselect_hyperslab(source, H5S_SELECT_SET, start, NULL, length, NULL);
    bool good = H5Dread(set, H5T_NATIVE_FLOAT, memory, source, transfer, out) >= 0;
    H5Sclose(memory);
    H5Sclose(source);
    return good;
}

/* This rank's stripes of the array against their CRCs. */
static zs_status verify_array(hid_t set, hid_t transfer, const char *path, const zs_checkpoint_array *array,
                              const uint32_t *crcs, int rank, int size, zs_error *err) {
    float *stripe = ZS_NEW(float, min64(STRIPE, array->total));
    zs_status status = ZS_OK;
    for (int64_t begin = rank * STRIPE; status == ZS_OK && begin < array->total; begin += size * STRIPE) {
        int64_t count = min64(STRIPE, array->total - begin), bad = INT64_MAX;
        if (!read_span(set, transfer, begin, count, stripe)) status = zs_store_fail(path, array->name, err);
#pragma omp parallel for schedule(dynamic) reduction(min : bad)
        for (int64_t at = 0; at < count; at += ZS_CRC_BLOCK) {
            int64_t block = (begin + at) / ZS_CRC_BLOCK;
            if (zs_crc_of(stripe + at, min64(ZS_CRC_BLOCK, count - at) * (int64_t)sizeof *stripe) !=
                crcs[block])
                bad = min64(bad, block);
        }
        if (status == ZS_OK && bad != INT64_MAX)
            status = zs_fail(err, ZS_FAILED, "%s: damaged: the CRC-32 of block %lld of array %s is wrong",
                             path, (long long)bad, array->name);
    }
    zs_free(stripe);
    return status;
}

static zs_status fill_pieces(hid_t set, hid_t transfer, const char *path, const zs_checkpoint_array *array,
                             zs_error *err) {
    for (int i = 0; i < array->num_pieces; i++) {
        const zs_piece *piece = &array->pieces[i];
        ZS_ASSERT(piece->begin >= 0 && piece->count >= 0 && piece->begin <= array->total - piece->count,
                  "piece %d of %s", i, array->name);
        for (int64_t at = 0; at < piece->count; at += 16 * STRIPE) /* MPI-IO counts bytes in an int */
            if (!read_span(set, transfer, piece->begin + at, min64(16 * STRIPE, piece->count - at),
                           piece->data + at))
                return zs_store_fail(path, array->name, err);
    }
    return ZS_OK;
}

/* The envelope has been checked; the file is open on all ranks. Nothing is filled before all ranks agree that
 * all arrays are whole. */
static zs_status read_arrays(MPI_Comm comm, hid_t file, const char *path, const zs_checkpoint_array *arrays,
                             int num_arrays, zs_error *err) {
    int rank, size;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    hid_t transfer = H5Pcreate(H5P_DATASET_XFER), sets[ZS_ENVELOPE_MAX_ARRAYS];
    H5Pset_dxpl_mpio(transfer, H5FD_MPIO_INDEPENDENT);
    zs_status status = ZS_OK;
    int opened = 0;
    while (status == ZS_OK && opened < num_arrays) {
        const zs_checkpoint_array *array = &arrays[opened];
        uint32_t *crcs = ZS_NEW(uint32_t, zs_crc_blocks(array->total));
        status = zs_store_open_array(file, path, array->name, array->total, NULL, &sets[opened], crcs, err);
        if (status == ZS_OK) {
            status = verify_array(sets[opened], transfer, path, array, crcs, rank, size, err);
            opened++;
        }
        zs_free(crcs);
    }
    status = agree(comm, status, err);
    for (int i = 0; status == ZS_OK && i < num_arrays; i++)
        status = fill_pieces(sets[i], transfer, path, &arrays[i], err);
    for (int i = 0; i < opened; i++)
        H5Dclose(sets[i]);
    H5Pclose(transfer);
    return agree(comm, status, err);
}

zs_status zs_checkpoint_read(MPI_Comm comm, const char *path, const zs_model *layout,
                             const zs_checkpoint_array *arrays, int num_arrays, zs_string *state_json,
                             zs_error *err) {
    zs_error local = {0};
    if (!err) err = &local;
    ZS_ASSERT(num_arrays <= ZS_ENVELOPE_MAX_ARRAYS, "%d arrays", num_arrays);
    MPI_Comm_dup(comm, &comm);
    int rank;
    MPI_Comm_rank(comm, &rank);
    zs_quiet quiet = zs_quiet_begin();
    zs_status status = agree(comm, rank == 0 ? zs_envelope_check(path, err) : ZS_OK, err);
    if (status == ZS_OK) {
        hid_t access = zs_store_access(comm), file = H5Fopen(path, H5F_ACC_RDONLY, access);
        H5Pclose(access);
        status = agree(comm, file >= 0 ? ZS_OK : zs_store_fail(path, "cannot be opened", err), err);
        zs_model_config config;
        if (status == ZS_OK && layout) {
            status = zs_store_read_config(file, path, &config, err);
            if (status == ZS_OK) status = check_model(path, &config, &layout->config, err);
            status = agree(comm, status, err);
        }
        if (status == ZS_OK) status = read_arrays(comm, file, path, arrays, num_arrays, err);
        if (status == ZS_OK && state_json)
            status = agree(comm, zs_store_read_text(file, path, "state", state_json, err), err);
        if (file >= 0) H5Fclose(file);
    }
    zs_quiet_end(quiet);
    MPI_Comm_free(&comm);
    return status;
}

zs_status zs_checkpoint_inspect(const char *path, zs_model_config *config, zs_string *state_json,
                                zs_error *err) {
    zs_status status = zs_envelope_check(path, err);
    if (status) return status;
    zs_quiet quiet = zs_quiet_begin();
    hid_t access = zs_store_access(MPI_COMM_NULL), file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    if (file < 0) status = zs_store_fail(path, "cannot be opened", err);
    if (status == ZS_OK) status = zs_store_read_config(file, path, config, err);
    if (status == ZS_OK && state_json) status = zs_store_read_text(file, path, "state", state_json, err);
    if (file >= 0) H5Fclose(file);
    zs_quiet_end(quiet);
    return status;
}

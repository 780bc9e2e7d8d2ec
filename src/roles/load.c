/* Model folders onto ranks.
 *
 * A loading has three collective steps: the readers open the folder and tell the shape; memory for it is
 * found; the weights go into it, piece by piece. A rank that cannot read goes on through all pieces, so that
 * no other waits for it, and says so at the end. */
#include "zerosearch/load.h"

#include "zerosearch/hf.h"
#include "zerosearch/log.h"
#include "zerosearch/memory.h"

#include <stdio.h>
#include <string.h>

#define PIECE      ((int64_t)16 << 20) /* elements handed on at a time */
#define INT8_PIECE ((int64_t)4 << 20)  /* parameters read in f32 at a time to be quantised */

static const zs_group nobody = {MPI_COMM_NULL, -1, 0};

zs_read zs_read_named(const char *name) {
    return !strcmp(name, "node") ? ZS_READ_NODE : !strcmp(name, "root") ? ZS_READ_ROOT : ZS_READ_ALL;
}

bool zs_keep_named(const char *name, zs_dtype *dtype) {
    *dtype = !strcmp(name, "f32")    ? ZS_F32
             : !strcmp(name, "bf16") ? ZS_BF16
             : !strcmp(name, "int8") ? ZS_INT8
                                     : ZS_DTYPE_OTHER;
    return *dtype != ZS_DTYPE_OTHER || !strcmp(name, "auto");
}

zs_load_need zs_load_plan(const zs_model_config *config, zs_dtype stored, zs_dtype kept, bool frozen,
                          zs_read read, int64_t ranks) {
    zs_model *layout = zs_model_layout(config);
    double file = (double)zs_model_bytes(layout, stored), bytes = (double)zs_model_bytes(layout, kept);
    double copies = (double)ranks, readers = read == ZS_READ_ALL ? copies : 1;
    bool narrow = kept == ZS_F32 && stored != ZS_F32, handed_on = read == ZS_READ_ROOT || !frozen;
    zs_load_need need = {.rank = frozen ? bytes / copies : bytes,
                         .node = frozen ? bytes : bytes * copies,
                         .read_rank = frozen ? file / readers : file,
                         .read_node = frozen ? file : file * readers};
    need.peak = need.node;
    if (read != ZS_READ_ALL && narrow && handed_on) /* the piece on its way, on each that takes part */
        need.peak += (frozen ? 1 : copies) * (double)(PIECE * zs_dtype_size(stored));
    if (kept == ZS_INT8) /* the piece that is quantised, on each that reads */
        need.peak += readers * 4 * (double)zs_model_piece_params(layout, INT8_PIECE);
    zs_model_destroy(layout);
    return need;
}

typedef struct source {
    const zs_comm *comm;
    const zs_group *group;
    const char *path;
    zs_read read;
    zs_hf_folder *folder; /* NULL on ranks that others read for */
    zs_model_config config;
    zs_dtype stored; /* precision in the files */
    int64_t num_params;
    char what[300]; /* for messages and waits */
} source;

/* Opens the folder on those ranks of `from` (ALL: none, every rank for itself) that read, and tells the rest
 * the shape. */
static zs_status open_source(source *s, const zs_group *from, zs_error *err) {
    struct {
        zs_model_config config;
        zs_dtype stored;
    } facts;
    memset(&facts, 0, sizeof facts);
    zs_status status = ZS_OK;
    if (from->rank <= 0) status = zs_hf_open(s->path, &s->folder, err);
    if (s->folder) {
        facts.config = zs_hf_layout(s->folder)->config;
        facts.stored = zs_hf_dtype(s->folder);
    }
    status = zs_comm_agree(s->comm, s->group, status, err);
    if (status != ZS_OK) return status;
    zs_comm_broadcast_bytes(s->comm, from, &facts, sizeof facts, 0, s->what);
    s->config = facts.config;
    s->stored = facts.stored;
    zs_model *layout = zs_model_layout(&s->config);
    s->num_params = layout->num_params;
    zs_model_destroy(layout);

    double seen[4] = {(double)s->num_params, -(double)s->num_params, s->stored, -(double)s->stored};
    zs_comm_max(s->comm, s->group, seen, 4, s->what);
    if (seen[0] + seen[1] > 0 || seen[2] + seen[3] > 0)
        return zs_fail(err, ZS_FAILED, "%s: nodes see different models in this folder", s->path);
    return ZS_OK;
}

/* Elements [begin, end) into `to`, read by rank 0 of `from` and handed to its others. They travel as the
 * files hold them where that is less. */
static zs_status hand_on(source *s, const zs_group *from, int64_t begin, int64_t end, zs_dtype dtype,
                         char *to, zs_status before, zs_error *err) {
    zs_status status = before;
    if (from->size < 2) return status ? status : zs_hf_read(s->folder, begin, end, dtype, to, err);
    bool narrow = dtype == ZS_F32 && s->stored != ZS_F32;
    zs_dtype sent = narrow ? s->stored : dtype;
    int64_t count = end - begin, bytes = count * zs_dtype_size(sent);
    char *piece = narrow ? zs_alloc(bytes, 1) : to;
    if (from->rank == 0 && status == ZS_OK) status = zs_hf_read(s->folder, begin, end, sent, piece, err);
    zs_comm_broadcast_bytes(s->comm, from, piece, bytes, 0, s->what);
    if (narrow) {
        zs_convert(sent, piece, count, dtype, to);
        zs_free(piece);
    }
    return status;
}

/* Every rank reads the parts that it keeps. */
static zs_status read_parts(source *s, const zs_shared *memory, zs_dtype dtype, zs_error *err) {
    int64_t size = zs_dtype_size(dtype), begin, end;
    zs_status status = ZS_OK;
    for (int64_t i = 0; status == ZS_OK && zs_shared_part(memory, i, &begin, &end); i++)
        status = zs_hf_read(s->folder, begin / size, end / size, dtype, (char *)memory->data + begin, err);
    return status;
}

/* One rank reads for others. `from`: of the ranks with memory of their own, those that one of them reads for.
 * Ranks that share the memory of one of these meet it after each piece, so that the deadline of waits is for
 * a piece and not for the model. */
static zs_status read_for_others(source *s, const zs_group *from, const zs_shared *memory, zs_dtype dtype,
                                 zs_error *err) {
    zs_status status = ZS_OK;
    for (int64_t begin = 0; begin < s->num_params; begin += PIECE) {
        int64_t end = begin + PIECE < s->num_params ? begin + PIECE : s->num_params;
        if (memory->rank == 0)
            status = hand_on(s, from, begin, end, dtype, (char *)memory->data + begin * zs_dtype_size(dtype),
                             status, err);
        if (memory->mapped) zs_shared_publish(s->comm, memory, s->what);
    }
    return status;
}

/* The same two for int8: what is read is quantised before it is kept or handed on. */

static zs_status quantize_parts(source *s, const zs_shared *memory, zs_model *block, float *work,
                                zs_error *err) {
    zs_status status = ZS_OK;
    int64_t index = 0;
    for (zs_model_piece p = {0}; status == ZS_OK && zs_model_next_piece(block, INT8_PIECE, &p); index++)
        if (index % memory->size == memory->rank) status = zs_hf_read_piece(s->folder, &p, work, block, err);
    return status;
}

static zs_status quantize_for_others(source *s, const zs_group *from, const zs_shared *memory,
                                     zs_model *block, float *work, zs_error *err) {
    zs_status status = ZS_OK;
    for (zs_model_piece p = {0}; zs_model_next_piece(block, INT8_PIECE, &p);) {
        if (from->rank == 0 && status == ZS_OK) status = zs_hf_read_piece(s->folder, &p, work, block, err);
        if (from->size > 1)
            zs_comm_broadcast_bytes(s->comm, from, block->int8 + p.from, p.to - p.from, 0, s->what);
        if (memory->mapped) zs_shared_publish(s->comm, memory, s->what);
    }
    return status;
}

/* `from`: of read_for_others; NULL: every rank reads. */
static zs_status read_int8(source *s, const zs_group *from, const zs_shared *memory, zs_error *err) {
    zs_model *block = zs_model_attach(&s->config, ZS_INT8, memory->data);
    bool reads = !from || from->rank == 0;
    float *work = ZS_NEW(float, reads ? zs_model_piece_params(block, INT8_PIECE) : 0);
    zs_status status = from ? quantize_for_others(s, from, memory, block, work, err)
                            : quantize_parts(s, memory, block, work, err);
    zs_free(work);
    zs_model_destroy(block);
    return status;
}

static zs_status read_weights(source *s, const zs_shared *memory, zs_dtype dtype, zs_error *err) {
    zs_status status;
    if (s->read == ZS_READ_ALL) {
        status = dtype == ZS_INT8 ? read_int8(s, NULL, memory, err) : read_parts(s, memory, dtype, err);
    } else {
        const zs_group *among = s->read == ZS_READ_NODE ? &memory->node : s->group;
        zs_group from = zs_group_select(s->comm, among, memory->rank == 0, among->rank, s->what);
        status = dtype == ZS_INT8 ? read_int8(s, &from, memory, err)
                                  : read_for_others(s, &from, memory, dtype, err);
        zs_group_free(&from);
    }
    if (memory->mapped) zs_shared_publish(s->comm, memory, s->what);
    return zs_comm_agree(s->comm, s->group, status, err);
}

static int64_t kept_bytes(const source *s, zs_dtype dtype) {
    zs_model *layout = zs_model_layout(&s->config);
    int64_t bytes = zs_model_bytes(layout, dtype);
    zs_model_destroy(layout);
    return bytes;
}

static source make_source(const zs_comm *comm, const zs_group *group, const char *folder, zs_read read) {
    source s = {.comm = comm, .group = group, .path = folder, .read = read};
    snprintf(s.what, sizeof s.what, "the weights of %.250s", folder);
    return s;
}

zs_status zs_load_frozen(const zs_comm *comm, const zs_group *group, const char *folder, zs_dtype dtype,
                         zs_read read, zs_frozen *out, zs_error *err) {
    *out = (zs_frozen){.memory.node = nobody};
    if (group->comm == MPI_COMM_NULL) return ZS_OK;
    double start = zs_seconds();
    source s = make_source(comm, group, folder, read);
    zs_group node = read == ZS_READ_NODE ? zs_group_on_node(comm, group, s.what) : nobody;
    zs_status status = open_source(&s, read == ZS_READ_ROOT ? group : &node, err);
    zs_group_free(&node);
    if (dtype == ZS_DTYPE_OTHER) dtype = s.stored == ZS_BF16 ? ZS_BF16 : ZS_F32;
    if (status == ZS_OK)
        status = zs_comm_share(comm, group, kept_bytes(&s, dtype), s.what, &out->memory, err);
    if (status == ZS_OK) {
        status = read_weights(&s, &out->memory, dtype, err);
        if (status == ZS_OK) out->model = zs_model_attach(&s.config, dtype, out->memory.data);
        if (s.folder) out->bytes_read = zs_hf_bytes_read(s.folder);
        if (status != ZS_OK) zs_frozen_free(out);
    }
    zs_hf_close(s.folder);
    if (status == ZS_OK && group->rank == 0)
        zs_log(ZS_LOG_DEBUG, "%s: %.2f GB of %s, kept once for %d ranks of a node, in %.1f s", folder,
               1e-9 * (double)out->memory.bytes, zs_dtype_name(dtype), out->memory.size,
               zs_seconds() - start);
    return status;
}

void zs_frozen_pack(const zs_comm *comm, zs_frozen *frozen) {
    if (!frozen->model) return;
    if (frozen->memory.mapped) zs_shared_publish(comm, &frozen->memory, "weights that are all read");
    zs_model_pack(frozen->model, frozen->memory.rank, frozen->memory.size);
    if (frozen->memory.mapped) zs_shared_publish(comm, &frozen->memory, "weights that are packed");
}

void zs_frozen_free(zs_frozen *frozen) {
    zs_model_destroy(frozen->model);
    zs_shared_free(&frozen->memory);
    frozen->model = NULL;
}

zs_status zs_load_model(const zs_comm *comm, const zs_group *group, const char *folder, zs_read read,
                        zs_model **out, int64_t *bytes_read, zs_error *err) {
    *out = NULL;
    if (group->comm == MPI_COMM_NULL) return ZS_OK;
    source s = make_source(comm, group, folder, read);
    zs_shared own = {.size = 1, .node = zs_group_on_node(comm, group, s.what)};
    zs_status status = open_source(&s,
                                   read == ZS_READ_ROOT   ? group
                                   : read == ZS_READ_NODE ? &own.node
                                                          : &nobody,
                                   err);
    if (status == ZS_OK) {
        own.bytes = s.num_params * zs_dtype_size(ZS_F32);
        status = zs_comm_check_room(&own.node, own.node.size, own.bytes, s.what, err);
        status = zs_comm_agree(comm, group, status, err);
    }
    if (status == ZS_OK) {
        zs_model *model = zs_model_create(&s.config);
        own.data = model->params;
        status = read_weights(&s, &own, ZS_F32, err);
        if (status == ZS_OK)
            *out = model;
        else
            zs_model_destroy(model);
    }
    if (bytes_read) *bytes_read = s.folder ? zs_hf_bytes_read(s.folder) : 0;
    zs_group_free(&own.node);
    zs_hf_close(s.folder);
    return status;
}

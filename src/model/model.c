/* Shapes, the parameter layout and initialisation. */
#include "zerosearch/model.h"

#include "zerosearch/kernels.h"
#include "zerosearch/memory.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

/* Named shapes. */

const char *const zs_model_shape_names = "qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-3b, qwen2.5-7b, qwen2.5-14b, "
                                         "llama3.2-1b, llama3.2-3b, demo-s, demo, demo-l, tiny";

/* As in the base models' config.json; the Instruct ones differ in end tokens and a few of the last columns.
 */
static const struct shape {
    const char *name;
    zs_architecture architecture;
    int64_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, max_positions;
    double theta, eps;
    bool tied, llama3;
} shapes[] = {
    {"qwen2.5-0.5b", ZS_QWEN2, 151936, 896, 4864, 24, 14, 2, 64, 32768, 1e6, 1e-6, true, false},
    {"qwen2.5-1.5b", ZS_QWEN2, 151936, 1536, 8960, 28, 12, 2, 128, 131072, 1e6, 1e-6, true, false},
    {"qwen2.5-3b", ZS_QWEN2, 151936, 2048, 11008, 36, 16, 2, 128, 32768, 1e6, 1e-6, true, false},
    {"qwen2.5-7b", ZS_QWEN2, 152064, 3584, 18944, 28, 28, 4, 128, 131072, 1e6, 1e-6, false, false},
    {"qwen2.5-14b", ZS_QWEN2, 152064, 5120, 13824, 48, 40, 8, 128, 131072, 1e6, 1e-5, false, false},
    {"llama3.2-1b", ZS_LLAMA, 128256, 2048, 8192, 16, 32, 8, 64, 131072, 5e5, 1e-5, true, true},
    {"llama3.2-3b", ZS_LLAMA, 128256, 3072, 8192, 28, 24, 8, 128, 131072, 5e5, 1e-5, true, true},
    {"demo-s", ZS_QWEN2, 768, 96, 256, 3, 4, 4, 24, 1024, 1e4, 1e-5, true, false},
    {"demo", ZS_QWEN2, 768, 128, 336, 4, 4, 4, 32, 1024, 1e4, 1e-5, true, false},
    {"demo-l", ZS_QWEN2, 768, 192, 512, 5, 4, 4, 48, 1024, 1e4, 1e-5, true, false},
    {"tiny", ZS_LLAMA, 512, 32, 96, 2, 4, 2, 8, 1024, 1e4, 1e-5, true, false},
};

bool zs_model_shape(const char *name, zs_model_config *out) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        if (strcmp(name, s->name) != 0) continue;
        *out = (zs_model_config){.architecture = s->architecture,
                                 .vocab_size = s->vocab,
                                 .hidden_size = s->hidden,
                                 .intermediate_size = s->intermediate,
                                 .num_hidden_layers = s->layers,
                                 .num_attention_heads = s->heads,
                                 .num_key_value_heads = s->kv_heads,
                                 .head_dim = s->head_dim,
                                 .max_position_embeddings = s->max_positions,
                                 .rms_norm_eps = s->eps,
                                 .rope_theta = s->theta,
                                 .attention_bias = s->architecture == ZS_QWEN2,
                                 .tie_word_embeddings = s->tied,
                                 .bos_token_id = -1};
        if (s->llama3) {
            out->rope_llama3 = true;
            out->rope_factor = 32;
            out->rope_low_freq_factor = 1;
            out->rope_high_freq_factor = 4;
            out->rope_original_max_position = 8192;
        }
        if (s->vocab == 128256) { /* the published ids of the Llama 3 and Qwen2.5 vocabularies */
            out->bos_token_id = 128000;
            out->eos_token_ids[0] = 128001;
            out->num_eos = 1;
        } else if (s->vocab > 150000) {
            out->bos_token_id = 151643;
            out->eos_token_ids[0] = 151643;
            out->num_eos = 1;
        }
        return true;
    }
    return false;
}

zs_status zs_model_config_check(const zs_model_config *c, zs_error *err) {
    const struct {
        const char *name;
        int64_t value, most;
    } sizes[] = {
        {"vocab_size", c->vocab_size, 1 << 24},
        {"hidden_size", c->hidden_size, 1 << 20},
        {"intermediate_size", c->intermediate_size, 1 << 22},
        {"num_hidden_layers", c->num_hidden_layers, 10000},
        {"num_attention_heads", c->num_attention_heads, 1 << 16},
        {"num_key_value_heads", c->num_key_value_heads, 1 << 16},
        {"head_dim", c->head_dim, 1 << 14},
        {"max_position_embeddings", c->max_position_embeddings, 1 << 30},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return zs_fail(err, ZS_FAILED, "%s is %lld; expected 1 to %lld", sizes[i].name,
                           (long long)sizes[i].value, (long long)sizes[i].most);
    if (c->num_attention_heads % c->num_key_value_heads != 0)
        return zs_fail(err, ZS_FAILED, "num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                       (long long)c->num_attention_heads, (long long)c->num_key_value_heads);
    if (c->head_dim % 2 != 0)
        return zs_fail(err, ZS_FAILED, "head_dim %lld is odd; rotary pairs need an even one",
                       (long long)c->head_dim);
    if (!(c->rms_norm_eps >= 0 && c->rms_norm_eps < 1))
        return zs_fail(err, ZS_FAILED, "rms_norm_eps is %g; expected 0 to 1", c->rms_norm_eps);
    if (!(c->rope_theta > 0 && isfinite(c->rope_theta)))
        return zs_fail(err, ZS_FAILED, "rope_theta is %g; expected more than 0", c->rope_theta);
    if (c->rope_llama3) {
        if (!(c->rope_factor > 0) || !(c->rope_low_freq_factor > 0) ||
            !(c->rope_high_freq_factor > c->rope_low_freq_factor))
            return zs_fail(
                err, ZS_FAILED,
                "rope_scaling: factor %g, low_freq_factor %g, high_freq_factor %g; expected factor "
                "> 0 and 0 < low < high",
                c->rope_factor, c->rope_low_freq_factor, c->rope_high_freq_factor);
        if (c->rope_original_max_position < 1)
            return zs_fail(err, ZS_FAILED,
                           "rope_scaling.original_max_position_embeddings is %lld; expected "
                           "at least 1",
                           (long long)c->rope_original_max_position);
    }
    if (c->num_eos < 0 || c->num_eos > ZS_MAX_EOS)
        return zs_fail(err, ZS_FAILED, "%d eos_token_id; at most %d", c->num_eos, ZS_MAX_EOS);
    return ZS_OK;
}

/* Llama 3.1's rule (Hugging Face modeling_rope_utils, "llama3"): long wavelengths are stretched by `factor`,
 * short ones left, those between blended. */
void zs_rope_frequencies(const zs_model_config *config, double *inv_freq) {
    int64_t half = config->head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        double f = pow(config->rope_theta, -2.0 * (double)i / (double)config->head_dim);
        if (config->rope_llama3) {
            double original = (double)config->rope_original_max_position;
            double wavelength = 2 * M_PI / f;
            double low = config->rope_low_freq_factor, high = config->rope_high_freq_factor;
            if (wavelength > original / low) {
                f /= config->rope_factor;
            } else if (wavelength >= original / high) {
                double smooth = (original / wavelength - low) / (high - low);
                f = (1 - smooth) * f / config->rope_factor + smooth * f;
            }
        }
        inv_freq[i] = f;
    }
}

/* The flat layout. */

typedef struct layout {
    zs_model *model;
    int64_t at;
} layout;

/* Appends a tensor; cols 0 makes a vector. Returns its offset. */
static int64_t add(layout *lay, int layer, int64_t rows, int64_t cols, const char *name) {
    zs_tensor *tensor = &lay->model->tensors[lay->model->num_tensors++];
    if (layer >= 0 && layer < lay->model->config.num_hidden_layers)
        snprintf(tensor->name, sizeof tensor->name, "model.layers.%d.%s", layer, name);
    else
        snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->rows = rows;
    tensor->cols = cols > 0 ? cols : 1;
    tensor->num_dims = cols > 0 ? 2 : 1;
    tensor->offset = lay->at;
    tensor->layer = layer;
    lay->at += tensor->rows * tensor->cols;
    return tensor->offset;
}

static void add_layer(layout *lay, int layer) {
    const zs_model_config *c = &lay->model->config;
    zs_layer_offsets *o = &lay->model->layers[layer];
    int64_t h = c->hidden_size, q = c->num_attention_heads * c->head_dim;
    int64_t kv = c->num_key_value_heads * c->head_dim;
    o->begin = lay->at;
    o->input_norm = add(lay, layer, h, 0, "input_layernorm.weight");
    o->qkv = add(lay, layer, q, h, "self_attn.q_proj.weight");
    add(lay, layer, kv, h, "self_attn.k_proj.weight");
    add(lay, layer, kv, h, "self_attn.v_proj.weight");
    o->qkv_bias = -1;
    if (c->attention_bias) {
        o->qkv_bias = add(lay, layer, q, 0, "self_attn.q_proj.bias");
        add(lay, layer, kv, 0, "self_attn.k_proj.bias");
        add(lay, layer, kv, 0, "self_attn.v_proj.bias");
    }
    o->o_proj = add(lay, layer, h, q, "self_attn.o_proj.weight");
    o->post_norm = add(lay, layer, h, 0, "post_attention_layernorm.weight");
    o->gate_up = add(lay, layer, c->intermediate_size, h, "mlp.gate_proj.weight");
    add(lay, layer, c->intermediate_size, h, "mlp.up_proj.weight");
    o->down_proj = add(lay, layer, h, c->intermediate_size, "mlp.down_proj.weight");
    o->end = lay->at;
}

zs_model *zs_model_layout(const zs_model_config *config) {
    zs_error err;
    ZS_ASSERT(zs_model_config_check(config, &err) == ZS_OK, "%s", err.text);
    zs_model *model = ZS_NEW(zs_model, 1);
    int layers = (int)config->num_hidden_layers;
    model->config = *config;
    model->tensors = ZS_NEW(zs_tensor, 4 + layers * (config->attention_bias ? 12 : 9));
    model->layers = ZS_NEW(zs_layer_offsets, layers);
    layout lay = {model, 0};
    model->embed = add(&lay, -1, config->vocab_size, config->hidden_size, "model.embed_tokens.weight");
    for (int i = 0; i < layers; i++)
        add_layer(&lay, i);
    model->final_norm = add(&lay, layers, config->hidden_size, 0, "model.norm.weight");
    model->head = model->embed;
    model->score_bias = -1;
    if (config->value_head) {
        model->head = add(&lay, layers, 1, config->hidden_size, "score.weight");
        model->score_bias = add(&lay, layers, 1, 0, "score.bias");
    } else if (!config->tie_word_embeddings)
        model->head = add(&lay, layers, config->vocab_size, config->hidden_size, "lm_head.weight");
    model->num_params = lay.at;
    return model;
}

const zs_tensor *zs_model_find(const zs_model *model, const char *name) {
    for (int i = 0; i < model->num_tensors; i++)
        if (strcmp(model->tensors[i].name, name) == 0) return &model->tensors[i];
    return NULL;
}

/* Initialisation. */

/* Normal number of element `index`: four from each Philox block by Box-Muller, so that the draw of an element
 * depends on nothing but the seed and its place. */
static void normals_of_block(const zs_rng *rng, int64_t block, float out[4]) {
    uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), rng->counter[2], rng->counter[3]};
    uint32_t bits[4];
    zs_philox(counter, rng->key, bits);
    for (int pair = 0; pair < 2; pair++) {
        double u = ((double)bits[2 * pair] + 1) / 4294967296.0,
               angle = 2 * M_PI * bits[2 * pair + 1] / 4294967296.0;
        double radius = sqrt(-2 * log(u));
        out[2 * pair] = (float)(radius * cos(angle));
        out[2 * pair + 1] = (float)(radius * sin(angle));
    }
}

/* Elements [begin, end) of the buffer, all of one tensor, at `to`. */
static void fill_normal(int64_t begin, int64_t end, const zs_rng *rng, float spread, float *to) {
#pragma omp parallel for schedule(static)
    for (int64_t block = begin / 4; block <= (end - 1) / 4; block++) {
        float normal[4];
        normals_of_block(rng, block, normal);
        for (int64_t i = 4 * block; i < 4 * block + 4; i++)
            if (i >= begin && i < end) to[i - begin] = spread * normal[i - 4 * block];
    }
}

void zs_model_draw(const zs_model *layout, uint64_t seed, int64_t begin, int64_t end, float *to) {
    zs_rng rng = zs_rng_make(seed, ZS_STREAM_INIT, 0, 0, 0);
    double residual = sqrt(2.0 * (double)layout->config.num_hidden_layers);
    for (int i = 0; i < layout->num_tensors; i++) {
        const zs_tensor *tensor = &layout->tensors[i];
        int64_t first = tensor->offset > begin ? tensor->offset : begin;
        int64_t last = tensor->offset + tensor->rows * tensor->cols;
        if (last > end) last = end;
        if (first >= last) continue;
        bool narrow = strstr(tensor->name, "o_proj") || strstr(tensor->name, "down_proj");
        bool score = layout->config.value_head && tensor->offset == layout->head;
        float constant = strstr(tensor->name, "norm") ? 1.0f : 0.0f;
        if (tensor->num_dims == 2 && !score)
            fill_normal(first, last, &rng, (float)(narrow ? 0.02 / residual : 0.02), to + (first - begin));
        else
            for (int64_t e = first; e < last; e++)
                to[e - begin] = constant;
    }
}

void zs_model_init(zs_model *model, uint64_t seed) {
    zs_model_draw(model, seed, 0, model->num_params, model->params);
}

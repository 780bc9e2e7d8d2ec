/* bench tokenize: training, loading, encoding and decoding of text on one core. */
#include "bench.h"

#include "zerosearch/log.h"
#include "zerosearch/memory.h"
#include "zerosearch/rng.h"
#include "zerosearch/strings.h"
#include "zerosearch/tokenizer.h"

#include <math.h>

/* Words of a made-up language; few of them are common. */
static void make_text(zs_string *text) {
    zs_rng rng = zs_rng_make(2, ZS_STREAM_TEST, 0, 0, 0);
    while (text->length < 2 << 20) {
        int64_t word = zs_rng_below(&rng, 5000) * zs_rng_below(&rng, 5000) / 5000;
        for (int64_t rest = word + 30; rest > 0; rest /= 9)
            zs_string_append(text, &"etaoinshr"[rest % 9], 1);
        zs_string_puts(text, zs_rng_below(&rng, 12) ? " " : ". ");
    }
}

typedef struct work {
    const zs_tokenizer *tokenizer;
    const zs_string *text;
    zs_ids ids;
    zs_string back;
} work;

static void encode(void *context) {
    work *w = context;
    zs_ids_clear(&w->ids);
    zs_tokenizer_encode(w->tokenizer, w->text->data, w->text->length, &w->ids);
}

static void decode(void *context) {
    work *w = context;
    zs_string_clear(&w->back);
    zs_tokenizer_decode(w->tokenizer, w->ids.data, w->ids.length, &w->back);
}

/* The tokenizer that is named, else one trained on the start of the text; the seconds it took. */
static zs_status get_tokenizer(const zs_bench *bench, const zs_string *text, zs_tokenizer **out,
                               double *seconds, zs_error *err) {
    const char *texts[] = {text->data};
    int64_t trained = text->length < 200000 ? text->length : 200000;
    double start = zs_seconds();
    zs_status status = bench->tokenizer
                           ? zs_tokenizer_load(bench->tokenizer, out, err)
                           : zs_tokenizer_train(texts, &trained, 1, 2000, NULL, 0, NULL, out, err);
    *seconds = zs_seconds() - start;
    return status;
}

zs_status zs_bench_tokenize(zs_bench *bench, zs_error *err) {
    zs_string text = {0};
    zs_tokenizer *tokenizer = NULL;
    double seconds;
    zs_status status = ZS_OK;
    if (bench->text)
        status = zs_file_read(bench->text, &text, err);
    else
        make_text(&text);
    if (!status && text.length == 0)
        status = zs_fail(err, ZS_FAILED, "%s: the text to encode is empty", bench->text);
    if (!status) status = get_tokenizer(bench, &text, &tokenizer, &seconds, err);
    if (!status) {
        work w = {.tokenizer = tokenizer, .text = &text};
        double megabytes = 1e-6 * (double)text.length;
        double encoding = zs_bench_time(encode, &w, 3, 9, 0.5).wall;
        double decoding = zs_bench_time(decode, &w, 3, 9, 0.5).wall;
        zs_bench_field fields[] = {{"load_s", bench->tokenizer ? seconds : NAN},
                                   {"train_s", bench->tokenizer ? NAN : seconds},
                                   {"vocab", (double)zs_tokenizer_vocab_size(tokenizer)},
                                   {"text_mb", megabytes},
                                   {"encode_mb_per_s", megabytes / encoding},
                                   {"tokens_per_s", (double)w.ids.length / encoding},
                                   {"bytes_per_token", (double)text.length / (double)w.ids.length},
                                   {"decode_mb_per_s", megabytes / decoding}};
        zs_bench_report(bench, "tokenize", fields, 8);
        zs_ids_free(&w.ids);
        zs_string_free(&w.back);
    }
    zs_tokenizer_destroy(tokenizer);
    zs_string_free(&text);
    return status;
}

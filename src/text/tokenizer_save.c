/* Hugging Face tokenizer.json, written: the document that was read or trained, its two big tables rebuilt. */
#include "tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

bool zs_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static json_t *merges_as_json(const zs_tokenizer *tokenizer) {
    json_t *merges = json_array();
    zs_string line = {0};
    for (int64_t i = 0; i < tokenizer->num_merges; i++) {
        zs_string_clear(&line);
        for (int side = 0; side < 2; side++) {
            int64_t length;
            const char *piece = zs_tokenizer_piece(tokenizer, tokenizer->merge_list[i][side], &length);
            if (side) zs_string_puts(&line, " ");
            zs_byte_level_write(piece, length, &line);
        }
        json_array_append_new(merges, json_stringn(line.data, (size_t)line.length));
    }
    zs_string_free(&line);
    return merges;
}

static json_t *vocab_as_json(const zs_tokenizer *tokenizer) {
    json_t *vocab = json_object();
    zs_string key = {0};
    for (int32_t id = 0; id < tokenizer->vocab_size; id++) {
        int64_t length;
        const char *piece = zs_tokenizer_piece(tokenizer, id, &length);
        zs_string_clear(&key);
        if (tokenizer->piece_kind[id] == ZS_PIECE_BYTES)
            zs_byte_level_write(piece, length, &key);
        else if (tokenizer->piece_kind[id] == ZS_PIECE_TEXT)
            zs_string_append(&key, piece, length);
        else
            continue;
        json_object_set_new(vocab, key.data, json_integer(id));
    }
    zs_string_free(&key);
    return vocab;
}

/* Frees `document`. */
static zs_status write_json(json_t *document, const char *path, zs_error *err) {
    char *text = json_dumps(document, JSON_INDENT(2));
    json_decref(document);
    if (!text) return zs_fail(err, ZS_FAILED, "%s: out of memory", path);
    zs_string whole = {0};
    zs_string_puts(&whole, text);
    zs_string_puts(&whole, "\n");
    free(text);
    zs_status status = zs_file_write(path, whole.data, whole.length, err);
    zs_string_free(&whole);
    return status;
}

/* What transformers' AutoTokenizer needs beside tokenizer.json. */
static json_t *minimal_config(const zs_tokenizer *tokenizer) {
    static const char *const ends[] = {"<|endoftext|>", "<|im_end|>", "<|end|>", "<eos>", "</s>"};
    json_t *config = json_object();
    json_object_set_new(config, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    json_object_set_new(config, "clean_up_tokenization_spaces", json_false());
    for (int i = 0; i < 5; i++) {
        if (!zs_tokenizer_is_special(tokenizer, zs_tokenizer_find(tokenizer, ends[i]))) continue;
        json_object_set_new(config, "eos_token", json_string(ends[i]));
        break;
    }
    return config;
}

zs_status zs_tokenizer_save(const zs_tokenizer *tokenizer, const char *path, zs_error *err) {
    zs_string folder = {0}, file = {0}, config = {0};
    if (zs_ends_with(path, ".json")) {
        const char *slash = strrchr(path, '/');
        zs_string_append(&folder, slash ? path : ".", slash ? (slash > path ? slash - path : 1) : 1);
        zs_string_puts(&file, path);
    } else {
        zs_string_puts(&folder, path);
        zs_string_printf(&file, "%s/tokenizer.json", path);
    }
    zs_string_printf(&config, "%s/tokenizer_config.json", folder.data);

    json_t *document = json_copy(tokenizer->shell);
    json_t *model = json_copy(json_object_get(document, "model"));
    json_object_set_new(model, "vocab", vocab_as_json(tokenizer));
    json_object_set_new(model, "merges", merges_as_json(tokenizer));
    json_object_set_new(document, "model", model);
    zs_status status = zs_make_folder(folder.data, err);
    if (!status)
        status = write_json(document, file.data, err);
    else
        json_decref(document);
    /* a config that came with somebody's model says more than ours */
    if (!status && (tokenizer->trained || !zs_file_exists(config.data)))
        status = write_json(minimal_config(tokenizer), config.data, err);
    zs_string_free(&folder);
    zs_string_free(&file);
    zs_string_free(&config);
    return status;
}

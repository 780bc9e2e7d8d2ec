#!/usr/bin/python3
"""Generation beside llama.cpp: prefill and decode of one model folder on the same threads, in turns.

    analysis/compare_llama.py --llama DIR --model DIR [--zerosearch build/zerosearch] [--dtype f32|bf16] [--batch 1,8]

--llama names the folder of llama.cpp's shared libraries (libllama*.so, libggml*.so). Where there is none:
`npm install --ignore-scripts @node-llama-cpp/linux-x64` brings node_modules/@node-llama-cpp/linux-x64/bins/linux-x64.
--model is a Qwen2 folder in F32 or BF16, such as `zerosearch init --shape qwen2.5-0.5b --out DIR` makes; its weights
are copied into a GGUF file beside it, in the precision of --dtype (the folder's). That both run the same model is
shown first: llama.cpp continues a prompt greedily, and the logits of both are compared on the text.

llama.cpp runs as it comes (F16 keys and values, flash attention as it chooses, its own choice of CPU kernels), driven
through its C interface without sampling; a batch's sequences share the cells of the prompt. `bench decode` counts its
sampling too. Each round times one and then the other; the table gives medians over the rounds, the ratio being the
median of the rounds' ratios.
"""
import argparse
import array
import ctypes
import glob
import json
import mmap
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time

F32, BF16 = "F32", "BF16"
SIZES = {F32: 4, BF16: 2}
GGML_TYPES = {F32: 0, BF16: 30}
# GGUF's name of a layer's tensor by Hugging Face's
LAYER_NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
               "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
               "post_attention_layernorm": "ffn_norm", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


# From a Hugging Face folder to GGUF (ggml's docs/gguf.md).

def read_safetensors(folder):
    """{name: (dtype, shape, bytes)} of a folder's one file, mapped."""
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    length, = struct.unpack_from("<Q", data)
    view, tensors = memoryview(data), {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = (entry["dtype"], entry["shape"], view[8 + length + begin:8 + length + end])
    return tensors


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        number, part = stem[len("model.layers."):].split(".", 1)
        return "blk.%s.%s.%s" % (number, LAYER_NAMES[part], kind)
    return NAMES[stem] + "." + kind


def convert(data, have, want):
    """Bytes of one precision as another: bf16 is the upper half of f32, rounded to nearest even."""
    if have == want:
        return data
    if have == BF16:
        wide = array.array("I", (x << 16 for x in memoryview(data).cast("H")))
        return wide.tobytes()
    return array.array("H", ((x + 0x7fff + (x >> 16 & 1)) >> 16 for x in memoryview(data).cast("I"))).tobytes()


def gguf_value(value):
    if isinstance(value, str):
        return struct.pack("<IQ", 8, len(value)) + value.encode()
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


def write_gguf(folder, dtype, path):
    """Matrices in `dtype`, vectors in f32; no vocabulary, since only ids are used."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    if config["model_type"] != "qwen2":
        sys.exit("compare_llama: %s is a %s model; only qwen2 is turned into GGUF" % (folder, config["model_type"]))
    numbers = {"block_count": "num_hidden_layers", "context_length": "max_position_embeddings",
               "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
               "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
               "attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta",
               "vocab_size": "vocab_size"}
    meta = {"general.architecture": "qwen2", "general.name": "compare", "tokenizer.ggml.model": "no_vocab"}
    meta.update({"qwen2." + name: config[key] for name, key in numbers.items()})
    head, offset, parts = b"", 0, []
    for name, (have, shape, data) in read_safetensors(folder).items():
        want = dtype if len(shape) == 2 else F32
        own, size = gguf_name(name).encode(), len(data) // SIZES[have] * SIZES[want]
        head += struct.pack("<Q", len(own)) + own + struct.pack("<I%dQ" % len(shape), len(shape), *shape[::-1])
        head += struct.pack("<IQ", GGML_TYPES[want], offset)
        offset += (size + 31) // 32 * 32
        parts.append((data, have, want))
    head = b"".join(struct.pack("<Q", len(k)) + k.encode() + gguf_value(v) for k, v in meta.items()) + head
    head = b"GGUF" + struct.pack("<IQQ", 3, len(parts), len(meta)) + head
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % 32))
        for data, have, want in parts:
            file.write(convert(data, have, want))
            file.write(bytes(-file.tell() % 32))


# llama.cpp through its C interface.

class Params(ctypes.Structure):
    """llama_model_params or llama_context_params with room to spare: a callee reads as much of the copy as it knows.
    What is set is found by the default values around it, since the layout grows with the versions."""
    _fields_ = [("bytes", ctypes.c_ubyte * 512)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)),
                ("embd", ctypes.POINTER(ctypes.c_float)), ("pos", ctypes.POINTER(ctypes.c_int32)),
                ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
quiet = LOG(lambda level, text, data: None)


def load_library(folder):
    def find(pattern):
        found = sorted(glob.glob(os.path.join(folder, pattern)))
        if not found:
            sys.exit("compare_llama: %s has no %s: it should be the folder of llama.cpp's shared libraries (npm "
                     "install --ignore-scripts @node-llama-cpp/linux-x64)" % (folder, pattern))
        return ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL)

    ggml, lib = find("libggml.*so*"), find("libllama.*so*")
    pointer, c_int = ctypes.c_void_p, ctypes.c_int32
    for name, result, arguments in (
            ("llama_log_set", None, [LOG, pointer]), ("llama_print_system_info", ctypes.c_char_p, []),
            ("llama_model_default_params", Params, []), ("llama_context_default_params", Params, []),
            ("llama_model_load_from_file", pointer, [ctypes.c_char_p, Params]),
            ("llama_init_from_model", pointer, [pointer, Params]), ("llama_free", None, [pointer]),
            ("llama_get_memory", pointer, [pointer]), ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
            ("llama_memory_seq_cp", None, [pointer, c_int, c_int, c_int, c_int]),
            ("llama_batch_init", Batch, [c_int, c_int, c_int]), ("llama_decode", c_int, [pointer, Batch]),
            ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, c_int]),
            ("llama_n_threads", c_int, [pointer]), ("llama_n_seq_max", ctypes.c_uint32, [pointer]),
            ("llama_n_ctx", ctypes.c_uint32, [pointer]), ("llama_synchronize", None, [pointer])):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.llama_log_set(quiet, None)
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    sys.stderr.flush()
    ggml.ggml_backend_load_all_from_path(folder.encode())
    lib.llama_backend_init()
    return lib


class Llama:
    """One model in one context; tokens go in at positions of sequences, logits come out."""

    def __init__(self, lib, path, sequences, cells, threads):
        self.lib = lib
        self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if not self.model:
            sys.exit("compare_llama: llama.cpp does not load %s" % path)
        params = lib.llama_context_default_params()
        self.fill(params, sequences, cells, threads)
        self.context = lib.llama_init_from_model(self.model, params)
        got = (lib.llama_n_threads(self.context), lib.llama_n_seq_max(self.context), lib.llama_n_ctx(self.context))
        if got[:2] != (threads, sequences) or got[2] < cells:
            sys.exit("compare_llama: asked for threads, sequences, cells %s, llama.cpp has %s" % (
                (threads, sequences, cells), got))
        self.memory = lib.llama_get_memory(self.context)
        self.batch = lib.llama_batch_init(4096, 0, 1)

    @staticmethod
    def fill(params, sequences, cells, threads):
        """n_ctx, n_batch, n_ubatch, n_seq_max come first; n_threads and n_threads_batch are 4 and 4 before the enums,
        kv_unified is the sixth bool behind the types of keys and values (F16) and the abort callback."""
        raw = bytes(params)
        words = struct.unpack("<128i", raw)
        places = [i for i in range(4, 30) if words[i:i + 2] == (4, 4)]
        types = [i for i in range(20, 60) if words[i:i + 2] == (1, 1)
                 and raw[4 * i + 24:4 * i + 30] == b"\0\1\1\1\1\0"]
        if words[:4] != (512, 2048, 512, 1) or len(places) != 1 or len(types) != 1:
            sys.exit("compare_llama: the layout of llama_context_params is not known in this version of llama.cpp")
        struct.pack_into("<4i", params, 0, cells, 2048, 512, sequences)
        struct.pack_into("<2i", params, 4 * places[0], threads, threads)
        params.bytes[4 * types[0] + 29] = 1

    def run(self, tokens, position, sequences=(0,), all_logits=False):
        """`tokens` at positions from `position` of one sequence, or one token for each of several sequences."""
        batch, many = self.batch, len(sequences) > 1
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, position if many else position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequences[i if many else 0]
            batch.logits[i] = all_logits or many or i == len(tokens) - 1
        start = time.perf_counter()
        if self.lib.llama_decode(self.context, batch) != 0:
            sys.exit("compare_llama: llama_decode failed")
        self.lib.llama_synchronize(self.context)
        return time.perf_counter() - start

    def clear(self):
        self.lib.llama_memory_clear(self.memory, True)

    def prefill(self, prompt):
        """Tokens a second of one prompt, and its last logits."""
        self.clear()
        return len(prompt) / self.run(prompt, 0)

    def decode(self, prompt, batch, steps):
        """Tokens a second of `batch` sequences after one prompt, by the median step."""
        self.clear()
        self.run(prompt, 0)
        for sequence in range(1, batch):
            self.lib.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)
        ids, times = random.Random(2), []
        for step in range(steps + 2):  # the first ones are not counted
            tokens = [prompt[ids.randrange(len(prompt))] for _ in range(batch)]
            times.append(self.run(tokens, len(prompt) + step, range(batch)))
        return batch / statistics.median(times[2:])

    def continue_greedily(self, prompt, steps, vocab):
        """The prompt with `steps` likeliest tokens behind it."""
        self.clear()
        ids, fresh = list(prompt), prompt
        for _ in range(steps):
            self.run(fresh, len(ids) - len(fresh))
            logits = self.lib.llama_get_logits_ith(self.context, -1)[:vocab]
            fresh = [max(range(vocab), key=logits.__getitem__)]
            ids += fresh
        return ids

    def all_logits(self, ids, vocab):
        self.clear()
        self.run(ids, 0, all_logits=True)
        return [self.lib.llama_get_logits_ith(self.context, i)[:vocab] for i in range(len(ids))]


# The program.

def run_ours(options, *words):
    command = [options.zerosearch, *words]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        sys.exit("compare_llama: %s failed:\n%s" % (" ".join(command), run.stderr))
    return run.stdout


def bench_ours(options, *words):
    text = run_ours(options, "bench", *words, "--json", "--model", options.model, "--threads", str(options.threads),
                    "--dtype", options.dtype)
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def our_logits(options, ids):
    with tempfile.TemporaryDirectory() as folder:
        path, wanted = os.path.join(folder, "logits.safetensors"), os.path.join(folder, "ids.jsonl")
        with open(wanted, "w", encoding="utf-8") as file:
            file.write(json.dumps({"ids": ids}) + "\n")
        with open(wanted, encoding="utf-8") as file:
            subprocess.run([options.zerosearch, "logprobs", "--model", options.model, "--dtype", options.dtype,
                            "--logits", path], stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           check=True)
        os.rename(path, os.path.join(folder, "model.safetensors"))
        dtype, shape, data = read_safetensors(folder)["logits.0"]
        assert dtype == F32
        values, vocab = memoryview(bytes(data)).cast("f"), shape[-1]
        return [values[i * vocab:(i + 1) * vocab].tolist() for i in range(len(values) // vocab)]


def check_same_model(options, llama, prompt, vocab):
    """Says how near the logits are; ends the program where the models differ."""
    ids = llama.continue_greedily(prompt[:16], 16, vocab)
    theirs, own = llama.all_logits(ids, vocab), our_logits(options, ids)
    largest = max(abs(x - y) for a, b in zip(theirs, own) for x, y in zip(a, b))
    spread = statistics.pstdev(own[-1])
    same = sum(max(range(vocab), key=own[i].__getitem__) == ids[i + 1] for i in range(15, 31))
    print("Same model: greedy tokens %d of 16 the same; largest difference of a logit %.3g, their standard deviation "
          "%.3g." % (same, largest, spread))
    if largest > 0.1 * spread:
        sys.exit("compare_llama: these are not the same model")


def compare(options, llama, prompt):
    """Rows {case: [(ours, theirs, our fraction of the read rate or None)]} over the rounds."""
    rows, steps = {}, options.new
    for number in range(options.rounds):
        if options.prefill:
            ours = bench_ours(options, "prefill", "--prompt", str(options.prefill))[-1]
            theirs = statistics.median(llama.prefill(prompt[:options.prefill]) for _ in range(5))
            rows.setdefault("prefill %d" % options.prefill, []).append((ours["tokens_per_s"], theirs, ours))
        for batch in options.batch:
            ours = bench_ours(options, "decode", "--batch", str(batch), "--prompt", str(options.prompt), "--new",
                              str(steps))[-1]
            theirs = llama.decode(prompt[:options.prompt], batch, steps)
            rows.setdefault("decode %d" % batch, []).append((ours["tokens_per_s"], theirs, ours))
        print("# round %d: %s" % (number + 1, "; ".join("%s %.4g and %.4g" % (name, *pairs[-1][:2])
                                                        for name, pairs in rows.items())), file=sys.stderr)
    return rows


def print_table(options, rows):
    print("\n| %s | zerosearch tok/s | llama.cpp tok/s | ratio | of read rate | llama.cpp's | read GB/s | of sgemm |\n"
          "|---|---|---|---|---|---|---|---|" % options.dtype)
    for name, rounds in rows.items():
        own, theirs = (statistics.median(r[i] for r in rounds) for i in (0, 1))
        ratio = statistics.median(r[0] / r[1] for r in rounds)
        reads = [r[2] for r in rounds if "of_best_read" in r[2]]
        cells = ("", "", "")
        if reads:
            fraction = statistics.median(r["of_best_read"] for r in reads)
            cells = ("%.0f %%" % (100 * fraction), "%.0f %%" % (100 * fraction / ratio),
                     "%.1f" % statistics.median(r["best_read_gb_per_s"] for r in reads))
        print("| %s | %.4g | %.4g | %.2f | %s | %s | %s | %.0f %% |" % (
            name, own, theirs, ratio, *cells, 100 * statistics.median(r[2]["of_best_gemm"] for r in rounds)))


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zerosearch", default="build/zerosearch")
    parser.add_argument("--llama", metavar="DIR")
    parser.add_argument("--model", metavar="DIR")
    parser.add_argument("--dtype", choices=("f32", "bf16"))
    parser.add_argument("--batch", default="1,8,32,64", type=lambda text: [int(x) for x in text.split(",") if x])
    parser.add_argument("--prefill", default=512, type=int, help="tokens of the prompt that is timed; 0: none")
    parser.add_argument("--prompt", default=128, type=int)
    parser.add_argument("--new", default=64, type=int)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    if not options.llama or not options.model:
        sys.exit("compare_llama: --llama DIR (npm install --ignore-scripts @node-llama-cpp/linux-x64 brings one) and "
                 "--model DIR (zerosearch init --shape qwen2.5-0.5b --out DIR) are needed")
    return options


def main():
    options = read_options()
    tensors = read_safetensors(options.model)
    have, (vocab, _), _ = tensors["model.embed_tokens.weight"]
    options.dtype = options.dtype or have.lower()
    path = os.path.join(options.model, "compare-%s.gguf" % options.dtype)
    if not os.path.exists(path):
        write_gguf(options.model, options.dtype.upper(), path)
    ids = random.Random(1)
    prompt = [ids.randrange(vocab) for _ in range(max(options.prefill, options.prompt, 16))]
    lib = load_library(options.llama)
    most = max(options.batch, default=1)
    cells = max(options.prefill, options.prompt + most * (options.new + 2), 64) + 256
    llama = Llama(lib, path, most, cells, options.threads)
    print("llama.cpp: %s\n%d threads each, %d rounds in turns, %s." % (
        lib.llama_print_system_info().decode().strip(" |"), options.threads, options.rounds, options.model))
    check_same_model(options, llama, prompt, vocab)
    print_table(options, compare(options, llama, prompt))


if __name__ == "__main__":
    main()

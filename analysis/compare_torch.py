#!/usr/bin/python3
"""Training beside PyTorch: forward, backward and AdamW of the same shapes, batches and threads, in turns.

    analysis/compare_torch.py [--zerosearch build/zerosearch] [--case SHAPE:LAYERS:BATCH:SEQ ...] [--threads N]

PyTorch runs eagerly in f32, written as the public model code has it: separate q, k and v projections, attention by
matmul and softmax, cross entropy over all logits, torch.optim.AdamW. It gets the BLAS kernel and the vector level
that a trial shows to be the fastest for it; --as-it-comes leaves it those that it takes of its own. Each round times
one and then the other (each the median of a few updates); the table gives medians over the rounds, the ratio being the
median of the rounds' ratios. Where others use the machine
too, look at the tokens per CPU second, on one thread: time spent waiting for a core is not in them.

Needs PyTorch: on Debian and Ubuntu `apt-get install python3-torch`, then run by /usr/bin/python3.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

MISSING = ("compare_torch: PyTorch is not there for %s (%s).\n"
           "Install it (Debian, Ubuntu: apt-get install python3-torch) and run this by the python that has it"
           " (there: /usr/bin/python3).")

# vocab, hidden, intermediate, layers, heads, kv heads, head size, theta, norm eps, q k v biases; embeddings are tied
SHAPES = {
    "qwen2.5-0.5b": (151936, 896, 4864, 24, 14, 2, 64, 1e6, 1e-6, True),
    "qwen2.5-1.5b": (151936, 1536, 8960, 28, 12, 2, 128, 1e6, 1e-6, True),
    "llama3.2-1b": (128256, 2048, 8192, 16, 32, 8, 64, 5e5, 1e-5, False),
    "demo": (768, 128, 336, 4, 4, 4, 32, 1e4, 1e-5, True),
}


def import_torch():
    try:
        import torch
    except ImportError as error:
        sys.exit(MISSING % (sys.executable, error))
    return torch


def best_of(work, times, clock=time.perf_counter):
    best = float("inf")
    for _ in range(times):
        start = clock()
        work()
        best = min(best, clock() - start)
    return best


class Clocks:
    """Runs something a few times: the median of the seconds that passed, and of those that all threads computed."""

    def __init__(self, work, times):
        runs = []
        for _ in range(times):
            start, cpu = time.perf_counter(), time.process_time()
            work()
            runs.append((time.perf_counter() - start, time.process_time() - cpu))
        self.wall, self.cpu = (statistics.median(column) for column in zip(*runs))


def sgemm_rate(torch, clock=time.perf_counter):
    """Best GFLOP/s of torch.mm."""
    rates = []
    for n in (512, 1024, 2048):
        a, b, c = torch.rand(n, n), torch.rand(n, n), torch.empty(n, n)
        rates.append(2e-9 * n ** 3 / best_of(lambda: torch.mm(a, b.t(), out=c), 20 if n < 2048 else 3, clock))
    return max(rates)


def trial():
    """In a child: its rates of sgemm and of an elementwise function, for choosing its environment."""
    torch = import_torch()
    torch.set_num_threads(1)
    x = torch.rand(1 << 16)
    exp = 1e-9 * x.numel() / best_of(lambda: torch.exp(x), 200)
    print(json.dumps({"sgemm": sgemm_rate(torch), "exp": exp}))


def best_environment():
    """OPENBLAS_CORETYPE and ATEN_CPU_CAPABILITY with which PyTorch is fastest here, as {name: value or None}."""
    def rate(environment, name):
        full = {k: v for k, v in os.environ.items() if k not in environment}
        full.update({k: v for k, v in environment.items() if v})
        run = subprocess.run([sys.executable, __file__, "--trial"], env=full, stdout=subprocess.PIPE, text=True,
                             stderr=subprocess.DEVNULL, check=False)
        return json.loads(run.stdout)[name] if run.returncode == 0 else 0.0

    chosen = {}
    for variable, name, values in (("OPENBLAS_CORETYPE", "sgemm", (None, "SkylakeX", "Zen", "Haswell")),
                                   ("ATEN_CPU_CAPABILITY", "exp", (None, "avx512", "avx2"))):
        rates = {value: rate(dict(chosen, **{variable: value}), name) for value in values}
        chosen[variable] = max(rates, key=rates.get)
        print("# PyTorch with %s: %s" % (variable, ", ".join(
            "%s %.3g G/s" % (value or "unset", r) for value, r in rates.items() if r)), file=sys.stderr)
    return chosen


def blas_of_this_process():
    """The files of the BLAS libraries that are loaded."""
    files = set()
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            path = line.split()[-1]
            if ".so" in path and any(name in path for name in ("blas", "mkl", "dnnl")):
                files.add(os.path.basename(path))
    return ", ".join(sorted(files)) or "unknown"


def build(torch, shape, layers):
    """A decoder-only transformer as module; called with ids [batch, seq] it returns the mean loss."""
    nn, functional = torch.nn, torch.nn.functional
    vocab, hidden, wide, _, heads, kv_heads, size, theta, eps, bias = SHAPES[shape]

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(hidden))

        def forward(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))

    def rotate(x, cos, sin):
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = Norm(), Norm()
            self.q = nn.Linear(hidden, heads * size, bias=bias)
            self.k = nn.Linear(hidden, kv_heads * size, bias=bias)
            self.v = nn.Linear(hidden, kv_heads * size, bias=bias)
            self.o = nn.Linear(heads * size, hidden, bias=False)
            self.gate = nn.Linear(hidden, wide, bias=False)
            self.up = nn.Linear(hidden, wide, bias=False)
            self.down = nn.Linear(wide, hidden, bias=False)

        def attend(self, x, cos, sin, mask):
            batch, seq, _ = x.shape
            q, k, v = (p(x).view(batch, seq, -1, size).transpose(1, 2) for p in (self.q, self.k, self.v))
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            if kv_heads != heads:
                k, v = (t[:, :, None].expand(batch, kv_heads, heads // kv_heads, seq, size)
                        .reshape(batch, heads, seq, size) for t in (k, v))
            weights = functional.softmax(q @ k.transpose(2, 3) / size ** 0.5 + mask, -1)
            return self.o((weights @ v).transpose(1, 2).reshape(batch, seq, -1))

        def forward(self, x, cos, sin, mask):
            x = x + self.attend(self.norm1(x), cos, sin, mask)
            y = self.norm2(x)
            return x + self.down(functional.silu(self.gate(y)) * self.up(y))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(vocab, hidden)
            self.layers = nn.ModuleList(Layer() for _ in range(layers))
            self.norm = Norm()
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    nn.init.uniform_(parameter, -0.035, 0.035)

        def forward(self, ids):
            seq = ids.shape[1]
            angles = torch.outer(torch.arange(seq).float(), theta ** (-torch.arange(0, size, 2).float() / size))
            cos, sin = torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()
            mask = torch.full((seq, seq), float("-inf")).triu(1)
            x = self.embed(ids)
            for layer in self.layers:
                x = layer(x, cos, sin, mask)
            x = self.norm(x[:, :-1])
            logits = functional.linear(x, self.embed.weight)
            return functional.cross_entropy(logits.reshape(-1, vocab), ids[:, 1:].reshape(-1))

    return Model()


def torch_update(torch, shape, layers, batch, seq):
    """A function that makes one update."""
    torch.manual_seed(1)
    model = build(torch, shape, layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    ids = torch.randint(SHAPES[shape][0], (batch, seq))

    def update():
        optimizer.zero_grad(set_to_none=True)
        loss = model(ids)
        loss.backward()
        optimizer.step()

    update()
    return update


def ours(program, shape, layers, batch, seq, threads):
    """Tokens a second and a CPU second of `bench train`, and the best sgemm rate of its run."""
    command = [program, "bench", "train", "--json", "--shape", shape, "--layers", str(layers), "--batch", str(batch),
               "--seq", str(seq), "--threads", str(threads)]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        sys.exit("compare_torch: %s failed:\n%s" % (" ".join(command), run.stderr))
    rows = {row["bench"]: row for row in map(json.loads, filter(lambda x: x.startswith("{"), run.stdout.splitlines()))}
    return rows["train"]["tokens_per_s"], rows["train"]["tokens_per_cpu_s"], rows["machine"]["gflops"]


def flops_per_token(shape, layers, seq):
    """As `bench train` counts: matrix products and causal attention, three times for forward and backward."""
    vocab, hidden, wide, _, heads, kv_heads, size, _, _, _ = SHAPES[shape]
    weights = layers * hidden * ((2 * heads + 2 * kv_heads) * size + 3 * wide) + hidden * vocab
    return 3 * (2 * weights + 4 * layers * heads * size * (seq + 1) / 2)


def compare(torch, options, case):
    shape, layers, batch, seq = case
    update = torch_update(torch, shape, layers, batch, seq)
    tokens, flops, limits = batch * seq, flops_per_token(shape, layers, seq) * 1e-9, [sgemm_rate(torch)]
    wall, cpu, cpu_limit = [], [], sgemm_rate(torch, time.process_time)
    for round_number in range(options.rounds):
        own, own_cpu, limit = ours(options.zerosearch, shape, layers, batch, seq, options.threads)
        theirs = Clocks(update, 3 if tokens * flops > 100 else 9)
        wall.append((own, tokens / theirs.wall))
        cpu.append((own_cpu, tokens / theirs.cpu))
        limits += [limit, sgemm_rate(torch)]
        cpu_limit = max(cpu_limit, sgemm_rate(torch, time.process_time), limit / options.threads)
        print("# %s round %d: %.4g and %.4g tok/s, %.4g and %.4g tok/CPU s" % (
            shape, round_number + 1, *wall[-1], *cpu[-1]), file=sys.stderr)
    row = "| %s | %d | %d x %d |" % (shape, layers, batch, seq)
    for name, pairs, limit in (("s", wall, max(limits)), ("CPU s", cpu, cpu_limit)):
        a, b = (statistics.median(column) for column in zip(*pairs))
        print("%s %s | %.4g | %.4g | %.2f | %.0f %% | %.0f %% |" % (
            row, name, a, b, statistics.median(x / y for x, y in pairs), 100 * flops * a / limit,
            100 * flops * b / limit), flush=True)


def read_case(text):
    fields = text.split(":")
    if len(fields) != 4 or fields[0] not in SHAPES or not all(f.isdigit() and int(f) > 0 for f in fields[1:]):
        raise argparse.ArgumentTypeError("%s: SHAPE:LAYERS:BATCH:SEQ with a shape of %s" % (text, ", ".join(SHAPES)))
    return (fields[0], *map(int, fields[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zerosearch", default="build/zerosearch")
    parser.add_argument("--case", action="append", type=read_case, metavar="SHAPE:LAYERS:BATCH:SEQ")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--as-it-comes", action="store_true", help="PyTorch's own choice of BLAS kernel")
    parser.add_argument("--trial", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial:
        return trial()
    if "COMPARE_TORCH_CHOSEN" not in os.environ:  # libraries read their settings when they load: start anew
        import_torch()
        environment = dict(os.environ, COMPARE_TORCH_CHOSEN="1", OMP_NUM_THREADS=str(options.threads))
        for variable, value in ({} if options.as_it_comes else best_environment()).items():
            environment.pop(variable, None)
            if value:
                environment[variable] = value
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    torch = import_torch()
    torch.set_num_threads(options.threads)
    sgemm_rate(torch)
    print("PyTorch %s (eager, f32, %s, OPENBLAS_CORETYPE %s, ATEN_CPU_CAPABILITY %s); %d threads each; %d rounds in "
          "turns.\n" % (torch.__version__, blas_of_this_process(), os.environ.get("OPENBLAS_CORETYPE", "unset"),
                        os.environ.get("ATEN_CPU_CAPABILITY", "unset"), options.threads, options.rounds))
    print("| shape | layers | batch | tokens per | zerosearch | PyTorch | ratio | of best sgemm | PyTorch's |\n"
          "|---|---|---|---|---|---|---|---|---|", flush=True)
    for case in options.case or [("qwen2.5-0.5b", 4, 4, 256), ("demo", 4, 8, 256)]:
        compare(torch, options, case)
    return None


if __name__ == "__main__":
    main()

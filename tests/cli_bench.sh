#!/usr/bin/env bash
# bench as a user calls it: every part runs and says its rate, the machine's limit and its memory, as JSON and as one
# table; what it counts as bytes and as limits can be checked by arithmetic. How fast anything is, is not judged.
#   ZS: the program   ZS_MPIRUN: mpirun with its flags
: "${ZS:?path of the binary}" "${ZS_MPIRUN:?the mpirun command}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1

check() { # NAME COMMAND...: ok when the command succeeds
    local name=$1
    shift
    if "$@"; then echo "ok $name"; else
        echo "not ok $name"
        tail -n 5 "$work/log" "$work/out" 2>/dev/null | sed 's/^/# /'
    fi
}
exits() { # CODE COMMAND...
    local want=$1 got=0
    shift
    "$@" >"$work/out" 2>"$work/log" || got=$?
    [ "$got" = "$want" ] || { echo "exit code $got, expected $want" >>"$work/log"; false; }
}
refused() { # CODE WORD COMMAND...: with one message that has the word in it
    local code=$1 word=$2
    shift 2
    exits "$code" "$@" && [ "$(grep -c '^error' "$work/log")" -eq 1 ] && grep -q "$word" "$work/log"
}
judge() { # PYTHON: about `rows`, the JSON objects of $work/rows
    python3 -c "
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
parts = [row['bench'] for row in rows]
$1" "$work/rows" >"$work/log" 2>&1
}

check one_rank_runs exits 0 "$ZS" bench gemm,train,prefill,decode,tokenize,drift --shape tiny --batch 1,3 --seq 24 \
    --prompt 20 --new 6 --tokens 90 --dtype both --json
cp "$work/out" "$work/rows"
check two_ranks_run exits 0 $ZS_MPIRUN -n 2 "$ZS" bench exchange,allreduce,broadcast,checkpoint --shape tiny \
    --folder "$work" --json
cat "$work/out" >>"$work/rows"
check nothing_is_left_behind [ -z "$(ls "$work" | grep zerosearch-bench)" ]
check every_part_has_rows judge '
assert parts[0] == "machine"
counts = {"train": 2, "prefill": 2, "decode": 4, "tokenize": 1, "drift": 1, "exchange": 3, "allreduce": 1,
          "broadcast": 2, "checkpoint": 1}
counts.update(dict.fromkeys(("gemm_qkv", "gemm_o", "gemm_up", "gemm_down", "gemm_head"), 6))
assert {part: parts.count(part) for part in set(parts) - {"machine"}} == counts, parts'
check precisions_are_told_apart judge '
for part in ("prefill", "broadcast"):
    assert [row["weight_bytes"] for row in rows if row["bench"] == part] == [4, 2]
assert [row["weight_bytes"] for row in rows if row["bench"] == "decode"] == [4, 4, 2, 2]
drift = [row for row in rows if row["bench"] == "drift"][0]
assert drift["tokens"] == 89 and 0 < drift["mean_abs"] < drift["max_abs"] < 0.1 and 0 < drift["kl"] < 1e-3'
check int8_products_run bash -c '"$0" bench gemm --shape tiny --batch 1,3 --seq 24 --dtype int8 --json |
    python3 -c "import json, sys
rows = [json.loads(line) for line in sys.stdin][1:]
assert len(rows) == 15 and all(row[\"weight_bytes\"] == 1 and row[\"gflops\"] > 0 for row in rows), rows"' "$ZS"
check rates_stand_beside_limits judge '
fractions = 0
for row in rows:
    for name, limit, rate in (("of_best_gemm", "best_gemm_gflops", "gflops"),
                              ("of_best_read", "best_read_gb_per_s", "gb_per_s"),
                              ("of_plain_alltoallv", "plain_alltoallv_gb_per_s", "gb_per_s"),
                              ("of_plain_allreduce", "plain_allreduce_gb_per_s", "gb_per_s"),
                              ("of_plain_bcast", "plain_bcast_gb_per_s", "gb_per_s"),
                              ("of_plain_write", "plain_write_gb_per_s", "write_gb_per_s")):
        if name in row:
            fractions += 1
            assert row[limit] > 0 and abs(row[rate] / row[limit] / row[name] - 1) < 1e-3, row
assert fractions == 2 * 30 + 2 + 2 + 2 * 4 + 3 + 1 + 2 + 1, fractions
assert all(row["gflops"] > 0 and row["read_gb_per_s"] > 0 for row in rows if row["bench"] == "machine")'
# the tiny shape has 41120 parameters
check peaks_are_those_of_a_part judge '
train = [row["peak_mib"] for row in rows if row["bench"] == "train"]
parameters = 41120 * 4 / 2**20
assert 4 * parameters < train[0] < train[1], train  # parameters, gradients and two moments at least
prefill = [row["peak_mib"] for row in rows if row["bench"] == "prefill"]
assert parameters < prefill[0] and prefill[1] < prefill[0] < max(row.get("peak_mib", 0) for row in rows), prefill'

check int8_runs exits 0 "$ZS" bench prefill,decode,drift --shape tiny --batch 1,3 --prompt 20 --new 6 --tokens 90 \
    --dtype int8 --json --markdown "$work/int8.md"
cp "$work/out" "$work/rows"
check int8_on_two_ranks exits 0 $ZS_MPIRUN -n 2 "$ZS" bench broadcast --shape tiny --dtype int8 --json
cat "$work/out" >>"$work/rows"
# The tiny shape: 2 layers of hidden 32 (64 with padding), 64 rows of q, k, v, intermediate 96 (128), vocabulary 512; 4 bytes of
# scale a row. A step reads the matrices, and keys and values of 2 layers, 2 heads of 8.
check int8_is_told_and_counted judge '
assert all(row["weight_bytes"] == 1 for row in rows if row["bench"] != "machine")
assert {part: parts.count(part) for part in set(parts) - {"machine"}} == {"prefill": 1, "decode": 2, "drift": 1, "broadcast": 1}
matrices = 2 * ((64 + 32 + 192) * 68 + 32 * 132) + 512 * 68
for row in rows:
    if row["bench"] == "decode":
        keys = row["batch"] * (20 + row["new"] / 2)
        want = matrices + 2 * 4 * keys * 2 * 2 * 8
        assert abs(row["gb_per_s"] * row["ms_per_step"] * 1e6 / want - 1) < 1e-4, (row, want)
    if row["bench"] == "broadcast":
        assert abs(row["megabytes"] * 1e6 - (matrices + 4 * 5 * 32)) < 64, row
    if row["bench"] == "drift":
        assert row["tokens"] == 89 and 0 < row["mean_abs"] < row["max_abs"] < 0.1 and 0 < row["kl"] < 1e-3, row'
check int8_stands_in_the_table grep -q '| decode | tiny.*| int8 |' "$work/int8.md"

# The table, by the script of `make bench`.
table=$work/folder/bench.md
check all_parts_make_one_table env BENCH_SHAPE=tiny BENCH_LAYERS=1 bash -c '
    "$0/../jobs/bench.sh" "$1" >"$2/out" 2>"$2/log"' "$(dirname "$0")" "$table" "$work"
check the_table_is_shown bash -c '[ -n "$(<"$0")" ] && [[ "$(<"$1")" = *"$(<"$0")" ]]' "$table" "$work/out"
check the_table_has_a_row_a_part python3 -c '
import sys
text = open(sys.argv[1]).read()
lines = [line for line in text.splitlines() if line.startswith("|")]
cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
assert len({len(row) for row in cells}) == 1 and cells[0][0] == "part" and text.count("# zerosearch bench") == 1
for part in ("gemm_up", "train", "prefill", "decode", "tokenize", "exchange", "allreduce", "broadcast", "checkpoint"):
    assert any(row[0] == part for row in cells[2:]), part
assert all(row[-1] != "" and (row[-2].endswith("%") or row[0] == "tokenize") for row in cells[2:]), cells
for word in ("processor: ", "cores", "memory ", "BLAS kernel: ", "MPI: ", "compiler: ", "commit: ", "date: "):
    assert word in text, word' "$table" 2>"$work/log"

check unknown_part refused 2 nosuch "$ZS" bench nosuch
check unknown_precision refused 2 f16 "$ZS" bench decode --dtype f16
check no_number refused 2 x "$ZS" bench decode --batch 1,x
check model_that_is_not_there refused 1 nosuch "$ZS" bench drift --model "$work/nosuch"
check table_that_cannot_be_written refused 1 nosuch "$ZS" bench tokenize --markdown "$work/nosuch/bench.md"

#!/bin/bash
# Every part of `zerosearch bench` into one Markdown table: bench.sh FILE. What one rank computes runs on all cores of
# this shell, what ranks do together on two ranks of one thread each.
#   ZS            the program (build/zerosearch)
#   BENCH_SHAPE   model shape (qwen2.5-0.5b)     BENCH_LAYERS  of the training model and of what is sent and written (4)
#   BENCH_DECODE_LAYERS  of the model that generates (the shape's)    BENCH_FOLDER  where checkpoints go (FILE's)
set -e
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/jobs/mpirun.sh"
table=${1:-build/bench.md}
zs=${ZS:-$root/build/zerosearch}
shape=(--shape "${BENCH_SHAPE:-qwen2.5-0.5b}")
layers=(--layers "${BENCH_LAYERS:-4}")
decode_layers=(${BENCH_DECODE_LAYERS:+--layers "$BENCH_DECODE_LAYERS"})
batches=(--batch 1,8,32,64 --prompt 128 --new 64)

mkdir -p "$(dirname "$table")"
rm -f "$table"
part() { "$zs" bench "$@" "${shape[@]}" --markdown "$table"; }
part gemm "${layers[@]}" --batch 1,8,32 --seq 1024 --dtype both
part gemm "${layers[@]}" --batch 1,8,32 --seq 1024 --dtype int8
part train "${layers[@]}" --batch 4 --seq 256
part prefill "${decode_layers[@]}" --prompt 512 --dtype both
part prefill "${decode_layers[@]}" --prompt 512 --dtype int8
for dtype in f32 bf16 int8; do part decode "${decode_layers[@]}" "${batches[@]}" --dtype "$dtype"; done
part tokenize "${layers[@]}"
mpirun_n 2 "$zs" bench exchange,allreduce,broadcast,checkpoint "${shape[@]}" "${layers[@]}" --markdown "$table" \
    --folder "${BENCH_FOLDER:-$(dirname "$table")}"
echo
cat "$table"
echo "bench: the table is $table" >&2

#!/usr/bin/env bash
# Prepares build/smoke for configs/smoke.cfg and the tests: a small world, and a tiny model that has seen enough search
# transcripts to write the tags. Seconds; called by `make`.   smoke.sh BUILD
set -euo pipefail
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0} # of a sanitizer build: MPI keeps memory to the end
cd "$(dirname "$0")/.."
build=$1 out=$1/smoke
rm -rf "$out"
"$build/zerosearch" world --out "$out/world" --base-1 200 --base-2 1500 --simulator 500 --questions 60 --log-level warning
"$build/zerosearch" init --shape tiny --tokenizer "$out/world" --out "$out/init" --log-level warning
grep -h "\"kind\":\"transcript\"" "$out/world/base_2.jsonl" >"$out/world/warm.jsonl"
OMP_NUM_THREADS=1 "$build/zerosearch" sft --log-level warning --set model.policy="$out/init" --set run.folder="$out/sft" \
    --set "sft.data=[\"$out/world/warm.jsonl\", \"$out/world/simulator.jsonl\"]" --set sft.steps=300 --set sft.batch_tokens=2048 \
    --set sft.max_length=512 --set learn.learning_rate=1e-2 --set learn.schedule=linear --set learn.warmup_steps=10 \
    --set learn.clip_gradient=1.0 --set checkpoint.every=0 2>/dev/null
mv "$out/sft/model" "$out/model"
rm -rf "$out/sft" "$out/init"

#!/usr/bin/env bash
# Resident memory stands still over an RL run: read from /proc between steps 30 and 150, with a checkpoint now and then.
#   ZS: the program
case $ZS in *asan*) # freed memory is kept there, to be watched
    echo "skip train_keeps_its_memory"
    echo "skip plan_states_the_memory_of_a_token"
    exit ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1
smoke=$(dirname "$ZS")/smoke
if [ ! -e "$smoke/model/model.safetensors" ]; then "$(dirname "$0")/../jobs/smoke.sh" "$(dirname "$ZS")" >/dev/null 2>&1; fi

"$ZS" train configs/smoke.cfg --set run.folder="$work/run" --set model.policy="$smoke/model" --set model.simulator="$smoke/model" \
    --set "data.train=[\"$smoke/world/qa_train.jsonl\"]" --set "data.eval=[\"$smoke/world/qa_dev.jsonl\"]" \
    --set data.corpus="$smoke/world/corpus_dev.jsonl" --set eval.every=20 --set checkpoint.every=20 --set learn.steps=150 \
    >"$work/log" 2>&1 &
pid=$!
# "STEP KILOBYTES" again and again while it runs
while memory=$(awk '/^VmRSS/ {print $2}' "/proc/$pid/status" 2>/dev/null) && [ -n "$memory" ]; do
    [ ! -e "$work/run/metrics.jsonl" ] || echo "$(wc -l <"$work/run/metrics.jsonl") $memory"
    sleep 0.02
done >"$work/memory"
wait $pid
code=$?
begin=$(awk '$1 >= 30 {print $2; exit}' "$work/memory")
end=$(awk '$1 >= 100 && $2 > most {most = $2} END {print most}' "$work/memory")
if [ $code -ne 0 ]; then
    echo "not ok train_keeps_its_memory: exit code $code"
    tail -5 "$work/log"
elif [ -z "$begin" ] || [ -z "$end" ]; then # over between two looks at it
    echo "skip train_keeps_its_memory"
elif [ $((end - begin)) -gt 4096 ]; then
    echo "not ok train_keeps_its_memory: $begin kB at step 30, $end kB later"
else
    echo "ok train_keeps_its_memory"
fi

# What `plan` states for a token of training is what a process grows by: longer texts through forward and backward.
peak() { # tokens of a text -> kilobytes
    python3 - "$ZS" "$work" "$1" <<'EOF'
import json, resource, subprocess, sys
program, work, tokens = sys.argv[1:]
line = json.dumps({"ids": [1 + i % 50 for i in range(int(tokens))]}) + "\n"
subprocess.run([program, "logprobs", "--model", work + "/model", "--grads", work + "/grads.safetensors"],
               input=line.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
EOF
}
"$ZS" init --shape demo --tokenizer "$smoke/world" --out "$work/model" >"$work/log" 2>&1
short=$(peak 1024) long=$(peak 5120)
stated=$("$ZS" plan --set model.policy="$work/model" 2>/dev/null | sed -n 's/^a token  *\([0-9]*\),.*/\1/p')
if awk -v s="$short" -v l="$long" -v t="$stated" 'BEGIN {g = (l - s) * 1024 / 4096; exit !(t > 0 && g > 0.97 * t && g < 1.03 * t)}'; then
    echo "ok plan_states_the_memory_of_a_token"
else
    echo "not ok plan_states_the_memory_of_a_token: $short kB with 1024 tokens, $long kB with 5120, $stated bytes a token stated"
    tail -5 "$work/log"
fi

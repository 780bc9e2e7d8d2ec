#!/usr/bin/env bash
# The demo, stage by stage: world, base pre-training, simulation tuning, RL against the simulator, evaluation against the
# corpus. A stage that is done is not run again, and an interrupted one goes on from its last checkpoint.
#   DEMO=folder (demo)   SEED=1   RANKS=cores (at most 8)
#   WORLD="..." and TRAIN="..." are more options for `world` and `train`, for a demo in miniature
set -euo pipefail
cd "$(dirname "$0")/.."
DEMO=${DEMO:-demo} SEED=${SEED:-1}
source jobs/demo_stages.sh
mkdir -p "$DEMO/done"

# Stages in order, with their share of the whole time (measured; only the total ETA depends on them).
stages=(world base_1 base_2 simulator before train after report)
share=(2 8 50 12 2 28 3 1)

total=0 && for s in "${share[@]}"; do total=$((total + s)); done
spent() { { cat "$DEMO"/done/* 2>/dev/null || true; } | awk '{s += $1} END {print int(s)}'; }

# The part of the whole that stage i is, for the progress bar: from, to, and when the demo began.
part() {
    local from=0 i
    for ((i = 0; i < $1; i++)); do from=$((from + share[i])); done
    awk -v a=$from -v b=$((from + share[$1])) -v t=$total -v s="$begin" 'BEGIN {printf "%.4f:%.4f:%d", a / t, b / t, s}'
}

sft() { tune "$1" "$DEMO/world/$1.jsonl" "$2" "$DEMO/world" "$DEMO/$1"; } # sft STAGE FROM_MODEL
ask_test() { # ask_test NAME MODEL OPTIONS...
    local name=$1 model=$2
    shift 2
    evaluate "$model" "$DEMO/world" "\"$DEMO/world/qa_test.jsonl\"" "$DEMO/train/eval_$name.json" "$@"
}

stage_world() {
    "$ZS" world --out "$DEMO/world" --seed "$SEED" ${WORLD:-}
    make_init demo "$DEMO/world" "$DEMO/init"
}
stage_base_1() { sft base_1 "$DEMO/init"; }
stage_base_2() { sft base_2 "$DEMO/base_1/model"; }
stage_simulator() { sft simulator "$DEMO/base_2/model"; }
stage_before() {
    mkdir -p "$DEMO/train"
    ask_test before_greedy "$DEMO/base_2/model"
    ask_test before_sampled "$DEMO/base_2/model" --temperature 1
}
stage_train() { reinforce "$DEMO/base_2/model" "$DEMO/simulator/model" "$DEMO/world" "$DEMO/train" ${TRAIN:-}; }
stage_after() {
    ask_test after_greedy "$DEMO/train/model"
    ask_test after_sampled "$DEMO/train/model" --temperature 1
    ask_test after_no_search "$DEMO/train/model" --max-turns 0
}
stage_report() {
    local python=${ZS_PYTHON:-/usr/bin/python3}
    command -v "$python" >/dev/null || python=python3
    "$python" analysis/report.py "$DEMO/train" ||
        echo "demo: the report could not be made (python3 is needed: make deps); everything else is done" >&2
}

begin=$(($(date +%s) - $(spent)))
for i in "${!stages[@]}"; do
    stage=${stages[$i]}
    if [ -e "$DEMO/done/$stage" ]; then continue; fi
    echo "demo: stage $((i + 1)) of ${#stages[@]}: $stage" >&2
    started=$(date +%s)
    ZS_PROGRESS_PART=$(part "$i") "stage_$stage"
    echo $(($(date +%s) - started)) >"$DEMO/done/$stage"
done

em() { sed -n 's/.*"em": \([0-9.]*\).*/\1/p' "$DEMO/train/eval_$1.json" | head -1; }
cat <<END

The demo took $(spent) seconds on $RANKS ranks (seed $SEED). Exact match on held-out questions, real BM25 engine over the corpus:
  before RL        greedy $(em before_greedy)   sampled $(em before_sampled)
  after RL         greedy $(em after_greedy)   sampled $(em after_sampled)
  after, no search greedy $(em after_no_search)
Curves and traces: $DEMO/train/report.html
Ask it something:  $ZS ask configs/demo.cfg --set model.policy=$DEMO/train/model --set data.corpus=$DEMO/world/corpus_test.jsonl \\
  --question "$(head -1 "$DEMO/world/qa_test.jsonl" | sed 's/.*"question": *"\([^"]*\)".*/\1/')"
END

#!/usr/bin/env bash
# The paper's tables in miniature, in the demo world: each cell of a table is a run, in PAPER/CELL/seed-N, made from the
# cells that it names. A cell that is done (its file `done` holds the seconds) is not run again, an interrupted one goes
# on from its last checkpoint; several may run at once. analysis/paper.py PAPER draws the tables.
#   paper.sh                         every cell, then the report
#   paper.sh CELL|CELL/seed-N ...    these, and what they need
#   paper.sh --list                  every cell with its stage, and whether it is done
#   PAPER=folder (paper)   PAPER_SEEDS="1 2 3"   RANKS=cores (at most 8)
#   WORLD="..." and TRAIN="..." are more options for `world` and `train`, PAPER_STEPS=N the steps of every run, for a test
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/demo_stages.sh
PAPER=${PAPER:-paper} PAPER_SEEDS=${PAPER_SEEDS:-1 2 3}

# CELL STAGE FROM [SETTINGS]. `train` starts from the model of FROM, of a pair POLICY+SIMULATOR, and ends with an
# evaluation. `simulator_eval` asks a simulator for useful and for noisy documents, by a policy's searches for the test
# questions to which the real engine gives the answer (`searches`). A cell comes after those that it is made from. What a
# table has twice is one cell (analysis/paper.py).
cells=$(
    echo "world world -"
    for size in s m l; do
        echo "base_1_$size base_1 init_$size"
        echo "base_2_$size base_2 base_1_$size"
        echo "simulator_$size simulator base_2_$size"
    done
    cat <<'CELLS'
instruct instruct base_2_m
collected collect instruct+base_2_m search.words=100 collect.end=</information>
simulator_collected_s simulator_collected base_2_s
simulator_collected_m simulator_collected base_2_m
simulator_collected_l simulator_collected base_2_l
searches searches instruct+base_2_m collect.judge=contains collect.contrast=false collect.balance=false
direct eval base_2_m rollout.method=direct
cot eval base_2_m rollout.method=cot
rag eval base_2_m rollout.method=rag
search eval base_2_m
direct_instruct eval instruct rollout.method=direct
cot_instruct eval instruct rollout.method=cot
rag_instruct eval instruct rollout.method=rag
search_instruct eval instruct
zerosearch train base_2_m+simulator_m
search_r1 train base_2_m search.engine=corpus
r1 train base_2_m rollout.method=cot
zerosearch_instruct train instruct+simulator_m
search_r1_instruct train instruct search.engine=corpus
r1_instruct train instruct rollout.method=cot
no_simulator train base_2_m search.engine=none
prompted_s train base_2_m+base_2_s
prompted_m train base_2_m+base_2_m
prompted_l train base_2_m+base_2_l
tuned_s train base_2_m+simulator_s
tuned_l train base_2_m+simulator_l
tuned_collected train base_2_m+simulator_collected_m
reinforce train base_2_m+simulator_m learn.algorithm=reinforce
reinforce++ train base_2_m+simulator_m learn.algorithm=reinforce++
rloo train base_2_m+simulator_m learn.algorithm=rloo
dr_grpo train base_2_m+simulator_m learn.algorithm=dr_grpo
dapo train base_2_m+simulator_m learn.algorithm=dapo
gspo train base_2_m+simulator_m learn.algorithm=gspo
ppo train base_2_m+simulator_m learn.algorithm=ppo learn.value_learning_rate=1e-3
random train base_2_m+simulator_m curriculum.kind=constant curriculum.start=0.5
reversed train base_2_m+simulator_m curriculum.kind=reversed
constant train base_2_m+simulator_m curriculum.kind=constant curriculum.start=0.1
linear train base_2_m+simulator_m curriculum.kind=linear
adaptive train base_2_m+simulator_m curriculum.kind=adaptive
unmasked train base_2_m+simulator_m learn.mask_documents=false
turns_1 train base_2_m+simulator_m rollout.max_turns=1
turns_2 train base_2_m+simulator_m rollout.max_turns=2
turns_3 train base_2_m+simulator_m rollout.max_turns=3
CELLS
    for size in s m l; do
        echo "quality_prompted_$size simulator_eval base_2_$size"
        echo "quality_tuned_$size simulator_eval simulator_$size"
        echo "quality_collected_$size simulator_eval simulator_collected_$size"
    done
)

folder_of() { echo "$PAPER/$1/seed-$SEED"; }
model_of() { echo "$(folder_of "$1")/model"; }
quoted_sets() { # the in-domain and the out-of-domain test sets of a world
    local set list=
    for set in qa_test qa_test_relations qa_test_hops qa_test_phrasing; do list+=", \"$1/$set.jsonl\""; done
    echo "${list#, }"
}

make_cell() { # make_cell CELL STAGE FROM SETTINGS...: in the cell's folder, from cells that are done
    local cell=$1 stage=$2 from=$3 folder world options=() setting
    shift 3
    folder=$(folder_of "$cell") world=$(folder_of world)
    for setting in "$@"; do options+=(--set "$setting"); done
    local sft_steps=(${PAPER_STEPS:+--set sft.steps="$PAPER_STEPS"}) steps=(${PAPER_STEPS:+--set learn.steps="$PAPER_STEPS"})
    case $stage in
    world) "$ZS" world --out "$folder" --seed "$SEED" --out-of-domain --instruct 1500 ${WORLD:-} ;;
    base_1)
        local -A shapes=([s]=demo-s [m]=demo [l]=demo-l)
        make_init "${shapes[${cell##*_}]}" "$world" "$folder/init"
        tune base_1 "$world/base_1.jsonl" "$folder/init" "$world" "$folder" "${sft_steps[@]}"
        ;;
    base_2 | simulator | instruct) tune "$stage" "$world/$stage.jsonl" "$(model_of "$from")" "$world" "$folder" "${sft_steps[@]}" ;;
    collect | searches)
        local part=train set=qa_train
        [ "$stage" = collect ] || part=test set=qa_test
        mpirun_n "$RANKS" "$ZS" collect configs/demo.cfg --set seed="$SEED" --set model.policy="$(model_of "${from%+*}")" \
            --set model.simulator="$(model_of "${from#*+}")" --set "data.train=[\"$world/$set.jsonl\"]" \
            --set data.corpus="$world/corpus_$part.jsonl" --set run.folder="$folder" "${options[@]}" \
            $([ ! -e "$folder/trajectories.jsonl" ] || echo --resume)
        [ "$stage" = collect ] || grep '"verdict":"useful"' "$folder/pairs.jsonl" >"$folder/answered.jsonl"
        ;;
    simulator_collected)
        tune simulator "$(folder_of collected)/train.jsonl" "$(model_of "$from")" "$world" "$folder" --set sft.epochs=3 "${sft_steps[@]}"
        ;;
    simulator_eval)
        mpirun_n "$RANKS" "$ZS" eval configs/demo.cfg --simulator --set seed="$SEED" --set model.simulator="$(model_of "$from")" \
            --queries "$(folder_of searches)/answered.jsonl" --set data.corpus="$world/corpus_test.jsonl" --set eval.questions=0 \
            --out "$folder/simulator.json"
        ;;
    eval) evaluate "$(model_of "$from")" "$world" "$(quoted_sets "$world")" "$folder/eval.json" "${options[@]}" ;;
    train)
        reinforce "$(model_of "${from%+*}")" "$(model_of "${from#*+}")" "$world" "$folder" "${options[@]}" "${steps[@]}" ${TRAIN:-}
        evaluate "$folder/model" "$world" "$(quoted_sets "$world")" "$folder/eval.json" "${options[@]}"
        ;;
    esac
}

needs() { # needs CELL STAGE FROM: the cells that it is made from
    [ "$2" = world ] || echo world
    [ "$2" != simulator_collected ] || echo collected
    [ "$2" != simulator_eval ] || echo searches
    case $3 in - | init_*) ;; *) tr + '\n' <<<"$3" | uniq ;; esac
}

run_cell() { # run_cell CELL: with what it needs; waits where another process makes it
    local cell=$1 words need folder started
    folder=$(folder_of "$cell")
    [ ! -e "$folder/done" ] || return 0
    read -ra words < <(awk -v cell="$cell" '$1 == cell' <<<"$cells")
    for need in $(needs "${words[@]}"); do run_cell "$need"; done
    mkdir -p "$folder"
    exec 9>"$folder/lock"
    flock 9
    if [ ! -e "$folder/done" ]; then
        echo "paper: $cell/seed-$SEED" >&2
        started=$(date +%s)
        make_cell "${words[@]}" 9>&-
        echo $(($(date +%s) - started)) >"$folder/done"
    fi
    exec 9>&-
}

trap : USR1 # a batch system's word to stop is for the runs: they write a checkpoint and end with 75, which ends this, too

if [ "${1:-}" = --list ]; then
    for SEED in $PAPER_SEEDS; do
        while read -r cell stage _; do
            echo "$cell/seed-$SEED $stage $([ -e "$(folder_of "$cell")/done" ] && echo done || echo -)"
        done <<<"$cells"
    done
    exit 0
fi
for wanted in "$@"; do
    if ! awk -v cell="${wanted%%/*}" '$1 == cell {found = 1} END {exit !found}' <<<"$cells" ||
        [[ $wanted == */* && $wanted != */seed-* ]]; then
        echo "paper: $wanted: no such cell; jobs/paper.sh --list shows them" >&2
        exit 2
    fi
done
all=$#
[ $# -gt 0 ] || set -- $(cut -d' ' -f1 <<<"$cells")
for wanted in "$@"; do
    seeds=$PAPER_SEEDS
    [[ $wanted != */* ]] || seeds=${wanted##*/seed-}
    for SEED in $seeds; do run_cell "${wanted%%/*}"; done
done
if [ "$all" = 0 ]; then
    python=${ZS_PYTHON:-/usr/bin/python3}
    command -v "$python" >/dev/null || python=python3
    "$python" analysis/paper.py "$PAPER"
fi

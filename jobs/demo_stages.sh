# What the runs in the demo world are made of; sourced by demo.sh and paper.sh, from the root of the tree.
# ZS is the program, SEED the seed, RANKS the ranks of a run.
ZS=${ZS:-build/zerosearch}
cores=$(nproc)
RANKS=${RANKS:-$((cores < 8 ? cores : 8))}
source jobs/mpirun.sh # sets mpirun_n: "mpirun_n N command..."

# A run folder with checkpoints is resumed; one without (killed before its first) starts anew.
resume() { if compgen -G "$1/checkpoints/step-*.h5" >/dev/null; then echo --resume; fi; }

make_init() { # make_init SHAPE WORLD OUT: weights to pre-train
    "$ZS" init --shape "$1" --wired --tokenizer "$2" --seed "$SEED" --out "$3"
}

tune() { # tune STAGE DATA FROM_MODEL WORLD FOLDER OPTIONS...: settings of configs/demo/STAGE.cfg
    local stage=$1 data=$2 from=$3 world=$4 folder=$5
    shift 5
    mpirun_n "$RANKS" "$ZS" sft "configs/demo/$stage.cfg" --set seed="$SEED" --set model.policy="$from" \
        --set "sft.data=[\"$data\"]" --set run.folder="$folder" --probe "$world/probe.jsonl" --probe-every 500 \
        $(resume "$folder") "$@"
}

reinforce() { # reinforce POLICY SIMULATOR WORLD FOLDER OPTIONS...: RL with configs/demo.cfg, measured on the dev set
    local policy=$1 simulator=$2 world=$3 folder=$4
    shift 4
    mpirun_n "$RANKS" "$ZS" train configs/demo.cfg --set seed="$SEED" --set model.policy="$policy" \
        --set model.simulator="$simulator" --set "data.train=[\"$world/qa_train.jsonl\"]" \
        --set "data.eval=[\"$world/qa_dev.jsonl\"]" --set data.corpus="$world/corpus_dev.jsonl" \
        --set run.folder="$folder" $(resume "$folder") "$@"
}

evaluate() { # evaluate MODEL WORLD SETS OUT OPTIONS...: the real engine over the test corpus; SETS: "a.jsonl", "b.jsonl"
    local model=$1 world=$2 sets=$3 out=$4
    shift 4
    mpirun_n "$RANKS" "$ZS" eval configs/demo.cfg --set seed="$SEED" --set model.policy="$model" \
        --set "data.eval=[$sets]" --set data.corpus="$world/corpus_test.jsonl" --set eval.questions=0 --out "$out" "$@"
}

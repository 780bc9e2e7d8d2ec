# Read by the shell tests of rollouts in a precision of their own: `run` trains the smoke model with rollouts in $dtype, and the rest
# looks at what it did.
. "$(dirname "$0")/smoke_checks.sh"

# An answer counts that has "bo" in it: few of the smoke model's made-up names do, and it can learn to prefer them.
for i in 1 2 3 4 5 6 7 8; do
    echo "{\"id\": \"$i\", \"question\": \"Who governs the birthplace of Binmul$i?\", \"golden_answers\": [\"bo\"]}"
done >"$work/qa.jsonl"

run() { # N FOLDER OPTIONS...: train on N ranks with the smoke settings, rollouts in $dtype
    local n=$1 folder=$2
    shift 2
    $ZS_MPIRUN -n "$n" "$ZS" train configs/smoke.cfg --set run.folder="$folder" --set run.replace=false \
        --set model.policy="$smoke/model" --set model.simulator="$smoke/model" --set checkpoint.every=1 \
        --set "data.train=[\"$work/qa.jsonl\"]" --set eval.every=0 --set learn.steps=4 --set learn.kl_coef=0.02 \
        --set learn.learning_rate=1e-3 --set reward.metric=cover_em --set rollout.questions=8 --set rollout.samples=8 \
        --set rollout.dtype=$dtype "$@"
}
same() { cmp "$work/$1/model/model.safetensors" "$work/$2/model/model.safetensors"; }
differ() { ! cmp -s "$work/$1/model/model.safetensors" "$work/$2/model/model.safetensors"; }
numbers() { sed -n "s/.*\"$2\":\([^,]*\),.*/\1/p" "$work/$1/metrics.jsonl"; } # FOLDER NAME: a line a step
all() { # FOLDER NAME CONDITION: over all steps, of x
    numbers "$1" "$2" | awk "{x = \$1; n++; if (!($3)) bad = 1} END {exit !(n > 0 && !bad)}" ||
        { numbers "$1" "$2" >"$work/log"; false; }
}

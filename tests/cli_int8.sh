#!/usr/bin/env bash
# int8 weights as a user meets them: RL with rollouts in int8 on 1 to 4 ranks, the same bits twice and after a kill, at once and a
# step ahead, the drift measured and weighed; a simulator in int8; the plan; what is refused. Needs build/smoke, which `make` prepares.
#   ZS: the program   ZS_MPIRUN: mpirun with its flags
dtype=int8
. "$(dirname "$0")/dtype_checks.sh"

for n in 1 2 3 4; do
    check "int8_trains_on_${n}_ranks" exits 0 run $n "$work/n$n"
    check "int8_drift_is_measured_on_${n}_ranks" all "n$n" log_prob_mismatch 'x > 1e-4 && x < 0.3'
    check "int8_weights_correct_on_${n}_ranks" all "n$n" importance_weight 'x > 0.8 && x < 1.2 && x != 1'
done
check int8_split_with_two_learners_trains exits 0 run 4 "$work/split" --set groups.layout=split --set groups.simulators=1 \
    --set groups.rollouts=1 --set groups.learners=2
check int8_pods_train exits 0 run 4 "$work/pods" --set groups.layout=split --set groups.pods=2 --set groups.rollouts=1 \
    --set groups.learners=1 --set search.engine=none
exits 0 run 3 "$work/colocated" --set groups.layout=colocated
exits 0 run 3 "$work/ahead" --set rollout.staleness=1
exits 0 run 3 "$work/bf16" --set rollout.dtype=bf16
check int8_is_another_run differ n3 bf16
mean() { numbers "$1" log_prob_mismatch | awk '{sum += $1} END {print sum / NR}'; }
check int8_drifts_more_than_bf16 awk -v a="$(mean n3)" -v b="$(mean bf16)" 'BEGIN {exit !(a > b && b > 0)}'
check int8_correction_off_works exits 0 run 3 "$work/off" --set learn.importance_cap=0
check int8_correction_matters differ n3 off

exits 0 run 3 "$work/again"
check int8_same_seed_same_bits same n3 again
for kind in 2 3 colocated ahead; do
    case $kind in
    2) n=2 whole=n2 options=() ;;
    3) n=3 whole=n3 options=() ;;
    colocated) n=3 whole=colocated options=(--set groups.layout=colocated) ;;
    ahead) n=3 whole=ahead options=(--set rollout.staleness=1) ;;
    esac
    ZS_TEST_KILL=train:3 run $n "$work/killed_$kind" "${options[@]}" >"$work/out" 2>"$work/log"
    check "int8_killed_$kind" test "$(numbers killed_$kind reward_mean | wc -l)" = 2
    check "int8_resumed_$kind" exits 0 run $n "$work/killed_$kind" "${options[@]}" --resume
    check "int8_resumed_to_the_bit_$kind" same $whole killed_$kind
done
cp -r "$work/bf16" "$work/changed"
check bf16_run_goes_on_in_int8 exits 0 run 3 "$work/changed" --set learn.steps=6 --resume
check int8_checkpoint_is_f32 exits 0 run 3 "$work/changed" --set learn.steps=8 --set rollout.dtype=f32 --resume

# A simulator in int8 writes the same documents whoever reads it and however many ranks hold it.
simulate() { # RANKS NAME OPTIONS...
    local n=$1 name=$2
    shift 2
    exits 0 $ZS_MPIRUN -n "$n" "$ZS" eval configs/smoke.cfg --set groups.layout=colocated --set model.policy="$smoke/model" \
        --set model.simulator="$smoke/model" --set "data.eval=[\"$smoke/world/qa_test.jsonl\"]" --set eval.engine=simulate_sft \
        --set eval.questions=8 --temperature 1 --predictions "$work/$name" "$@" && sort -o "$work/$name" "$work/$name"
}
check simulator_int8_on_1_rank simulate 1 one --set model.simulator_dtype=int8
for read in all node root; do
    check "simulator_int8_read_$read" simulate 4 "four_$read" --set model.simulator_dtype=int8 --set model.read=$read
    check "simulator_int8_read_${read}_same_episodes" cmp "$work/one" "$work/four_$read"
done
check simulator_int8_wrote_documents grep -q 'Doc 1' "$work/one"
check policy_int8_is_evaluated simulate 2 policy --set rollout.dtype=int8 --set eval.engine=none

# The plan. Qwen2.5-3B: 3,085,938,688 parameters; all sizes are multiples of 16 and 64, so a block has a byte for each weight of a
# matrix, and 4 for each row and for each norm and bias: 2.88 GiB, against 5.75 in bf16.
plan() { "$ZS" plan --shape qwen2.5-3b --set groups.layout=split --set groups.learners=2 "$@" >"$work/out" 2>"$work/log"; }
of() { awk -v role="$1" -v c="$2" '$1 == role {print $c; exit}' "$work/out"; } # ROLE COLUMN of the memory table
node() { sed -n 's/^the fullest node: \([0-9.]*\) GiB.*/\1/p' "$work/out"; }
h=2048 q=2048 kv=256 wide=11008 layers=36 vocab=151936
rows=$((vocab + layers * (q + 2 * kv + h + 2 * wide + h)))
vectors=$((layers * (2 * h + q + 2 * kv) + h))
bytes=$((3085938688 - vectors + 4 * (rows + vectors)))
gib=$(awk -v b=$bytes 'BEGIN {printf "%.2f", b / 2 ^ 30}')
plan --set rollout.dtype=bf16 --set model.simulator_dtype=bf16
before=$(node)
check plan_bf16_weights [ "$(of rollout 3)" = 5.75 ]
plan --set rollout.dtype=int8 --set model.simulator_dtype=int8
check plan_int8_weights [ "$(of rollout 3)" = "$gib" ]
check plan_int8_simulator [ "$(of simulator 3)" = "$gib" ]
check plan_int8_broadcast grep -q "^weights, into each rollout  *$(awk -v b=$bytes 'BEGIN {printf "%.1f", b / 1e6}')$" "$work/out"
check plan_int8_learners_weights [ "$(of learner 3)" = 11.50 ]
# rollout and simulator have half of bf16, one learner of the two a block more
check plan_int8_node awk -v a="$before" -v b="$(node)" -v g="$gib" 'BEGIN {d = a - b - (2 * (5.75 - g) - g); exit !(d < 0.04 && d > -0.04)}'
plan --set rollout.dtype=int8 --set rollout.staleness=1
check plan_int8_second_copy awk -v a="$(of rollout 3)" -v g="$gib" 'BEGIN {d = a - 2 * g; exit !(d < 0.02 && d > -0.02)}'

refused() { # WORDS COMMAND...: wrong usage, said in one line with these words
    local words=$1
    shift
    exits 2 "$@" && [ "$(grep -c '^error' "$work/log")" = 1 ] && grep '^error' "$work/log" | grep -qF -- "$words"
}
check reference_in_int8_is_refused refused 'model.reference_dtype: "int8" is not known; one of auto, f32, bf16' run 2 "$work/w" --set model.reference_dtype=int8
check cache_in_int8_is_refused refused 'rollout.cache_dtype: "int8" is not known; one of f32, bf16' run 2 "$work/w" --set rollout.cache_dtype=int8
check other_precision_is_refused refused 'one of f32, bf16, int8' run 2 "$work/w" --set rollout.dtype=int4
check files_in_int8_are_refused refused 'expected f32, bf16 or f16' "$ZS" convert --from "$smoke/model" --to "$work/w" --dtype int8
check init_in_int8_is_refused refused 'expected f32 or bf16' "$ZS" init --shape tiny --dtype int8 --out "$work/w"
check generate_cache_in_int8_is_refused refused '--cache-dtype int8: f32 or bf16' "$ZS" generate --model "$smoke/model" --prompt x --cache-dtype int8
check plan_of_folders_in_int8_is_refused refused 'expected bf16 or f32' "$ZS" plan --shape tiny --dtype int8
check nothing_was_written [ ! -e "$work/w" ]

# Learning: from a few answers in a hundred to a third or more.
check int8_learning_run exits 0 run 2 "$work/learned" --set learn.steps=60 --set learn.kl_coef=0.0 --set search.engine=none \
    --set checkpoint.every=0
numbers learned reward_mean >"$work/log"
check int8_policy_learns awk 'NR <= 10 {first += $1 / 10} NR > 50 {last += $1 / 10} END {exit !(NR == 60 && last > first + 0.15)}' \
    "$work/log"

#!/usr/bin/env bash
# RL with rollouts in bf16: on 1 to 4 ranks, the same bits twice and after a kill, the drift from the learner's f32 measured and
# weighed, and a policy that still learns. Needs build/smoke, which `make` prepares.
#   ZS: the program   ZS_MPIRUN: mpirun with its flags
dtype=bf16
. "$(dirname "$0")/dtype_checks.sh"

for n in 1 2 3 4; do
    check "bf16_trains_on_${n}_ranks" exits 0 run $n "$work/n$n"
    check "bf16_drift_is_measured_on_${n}_ranks" all "n$n" log_prob_mismatch 'x > 1e-5 && x < 0.1'
done
check bf16_colocated_trains exits 0 run 3 "$work/colocated" --set groups.layout=colocated
check bf16_split_with_two_learners_trains exits 0 run 4 "$work/split" --set groups.layout=split --set groups.simulators=1 \
    --set groups.rollouts=1 --set groups.learners=2
check bf16_pods_train exits 0 run 4 "$work/pods" --set groups.layout=split --set groups.pods=2 --set groups.rollouts=1 \
    --set groups.learners=1 --set search.engine=none
check drift_has_a_maximum all n3 log_prob_mismatch_max 'x > 1e-3 && x < 10'
check drift_as_kl all n3 log_prob_mismatch_kl 'x > 0 && x < 0.05'
check weights_are_about_one all n3 importance_weight 'x > 0.9 && x < 1.1'
check few_weights_are_capped all n3 importance_capped 'x >= 0 && x < 0.05'
check ratios_begin_at_one all n3 clip_fraction 'x == 0'

exits 0 run 3 "$work/f32" --set rollout.dtype=f32
check f32_rollouts_hardly_drift all f32 log_prob_mismatch_max 'x < 1e-3'
check f32_rollouts_weigh_one all f32 importance_weight 'x > 0.9999 && x < 1.0001'
check bf16_is_another_run differ f32 n3
exits 0 run 3 "$work/f32off" --set rollout.dtype=f32 --set learn.importance_cap=0
check cap_does_not_touch_f32 same f32 f32off

check bf16_cache_trains exits 0 run 3 "$work/cache" --set rollout.dtype=f32 --set rollout.cache_dtype=bf16 --set search.cache_dtype=bf16
check bf16_cache_is_another_run differ cache f32
check bf16_cache_drift_is_measured all cache log_prob_mismatch 'x > 1e-5 && x < 0.1'
check bf16_cache_is_weighed all cache importance_weight 'x > 0.9 && x < 1.1 && x != 1'
exits 0 run 3 "$work/cacheoff" --set rollout.dtype=f32 --set rollout.cache_dtype=bf16 --set search.cache_dtype=bf16 \
    --set learn.importance_cap=0
check bf16_cache_correction_matters differ cache cacheoff

exits 0 run 3 "$work/again"
check bf16_same_seed_same_bits same n3 again
exits 0 run 3 "$work/colocated_again" --set groups.layout=colocated
check bf16_colocated_same_bits same colocated colocated_again
for layout in auto colocated; do
    whole=$([ $layout = auto ] && echo n3 || echo colocated)
    ZS_TEST_KILL=train:3 run 3 "$work/killed_$layout" --set groups.layout=$layout >"$work/out" 2>"$work/log"
    check "bf16_killed_in_a_step_$layout" test "$(numbers killed_$layout reward_mean | wc -l)" = 2
    check "bf16_killed_then_resumed_$layout" exits 0 run 3 "$work/killed_$layout" --set groups.layout=$layout --resume
    check "bf16_killed_then_resumed_to_the_bit_$layout" same "$whole" "killed_$layout"
done
# More rows at once than our own products take: what the BLAS does with a row must not depend on the run's past either.
ZS_TEST_KILL=train:3 run 3 "$work/killed_f32" --set rollout.dtype=f32 >"$work/out" 2>"$work/log"
check f32_of_many_rows_killed_then_resumed exits 0 run 3 "$work/killed_f32" --set rollout.dtype=f32 --resume
check f32_of_many_rows_resumed_to_the_bit same f32 killed_f32
cp -r "$work/f32" "$work/changed"
check f32_run_goes_on_in_bf16 exits 0 run 3 "$work/changed" --set learn.steps=6 --resume
check f32_run_goes_on_in_bf16_measured test "$(numbers changed log_prob_mismatch | awk '$1 > 1e-5' | wc -l)" = 2

check correction_off_works exits 0 run 3 "$work/off" --set learn.importance_cap=0
check correction_matters differ n3 off
check correction_off_caps_nothing all off importance_capped 'x == 0'
check low_cap_works exits 0 run 3 "$work/low" --set learn.importance_cap=1
check low_cap_caps_half all low importance_capped 'x > 0.1 && x < 0.9'
check low_cap_keeps_weights_below all low importance_weight 'x <= 1'
check bf16_minibatches_and_epochs_work exits 0 run 2 "$work/mb" --set learn.epochs=2 --set learn.minibatches=2
check bf16_minibatches_weigh_the_first_policy all mb log_prob_mismatch_max 'x < 1'
check bf16_unmasked_documents_work exits 0 run 2 "$work/um" --set learn.mask_documents=false
check wrong_dtype_is_refused exits 2 run 2 "$work/w" --set rollout.dtype=f16
check wrong_dtype_is_said_once test "$(grep -c 'rollout.dtype' "$work/log")" = 1
check missing_model_is_refused exits 1 run 3 "$work/m" --set model.policy="$work/nowhere"
check missing_model_is_said_once test "$(grep -c 'nowhere' "$work/log")" = 1

# Learning: from a few answers in a hundred to a third or more.
check bf16_learning_run exits 0 run 2 "$work/learned" --set learn.steps=60 --set learn.kl_coef=0.0 --set search.engine=none \
    --set checkpoint.every=0
numbers learned reward_mean >"$work/log"
check bf16_policy_learns awk 'NR <= 10 {first += $1 / 10} NR > 50 {last += $1 / 10} END {exit !(NR == 60 && last > first + 0.15)}' \
    "$work/log"

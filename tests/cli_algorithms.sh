#!/usr/bin/env bash
# Each algorithm lifts the reward on three seeds, and without a learning rate nothing does; runs killed and resumed to the bit with
# what the algorithms keep (value model, adaptive KL, rounds of redraws); a run made to collapse, and what the guard does.
#   ZS: the program   ZS_MPIRUN: mpirun with its flags
case $ZS in */asan/*)
    echo "skip algorithms (sanitizers make it too slow)"
    exit 0
    ;;
esac
. "$(dirname "$0")/smoke_checks.sh"

# A reward that is within reach: the answer holds one of three syllables, which the smoke model's guesses do now and then.
head -32 "$smoke/world/qa_train.jsonl" | sed 's/"golden_answers":\[[^]]*\]/"golden_answers":["il","on","ir"]/' >"$work/qa.jsonl"

run() { # N FOLDER OPTIONS...
    local n=$1 folder=$2 launch=""
    shift 2
    [ "$n" = 1 ] || launch="$ZS_MPIRUN -n $n"
    $launch "$ZS" train configs/smoke.cfg --set run.folder="$work/$folder" --set run.replace=false --set groups.layout=colocated \
        --set model.policy="$smoke/model" --set model.simulator="$smoke/model" --set search.engine=none --set eval.every=0 \
        --set "data.train=[\"$work/qa.jsonl\"]" --set reward.metric=cover_em --set rollout.max_turns=1 --set rollout.questions=8 \
        --set rollout.samples=8 --set rollout.response_tokens=12 --set rollout.context_tokens=160 --set learn.steps=16 \
        --set learn.learning_rate=4e-3 --set learn.value_learning_rate=4e-3 --set checkpoint.every=0 --set checkpoint.export=false "$@"
}
# How far the mean reward of the last four steps is above that of the first four: 32 questions each, the same ones.
lift() { awk -F'"reward_mean":' 'NF > 1 {split($2, a, ","); r[++n] = a[1]} END {for (i = 1; i <= 4; i++) s += r[n - i + 1] - r[i]; printf "%.3f", s / 4}' \
    "$work/$1/metrics.jsonl"; }
above() { awk -v a="$1" -v b="$2" 'BEGIN {exit !(a != "" && a > b)}'; }
same() { cmp "$work/$1/model/model.safetensors" "$work/$2/model/model.safetensors"; }
one_message() { [ "$(grep -c "$1" "$work/log")" = 1 ]; }

algorithms="reinforce reinforce++ rloo grpo dr_grpo dapo gspo ppo"
learn() { # ALGORITHM SEED OPTIONS...
    local name=$1_$2 algorithm=$1 seed=$2
    shift 2
    run 1 "$name" --set learn.algorithm="$algorithm" --set seed="$seed" "$@" >"$work/$name.log" 2>&1
}
for seed in 1 2 3; do
    for a in $algorithms; do
        while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
        case $a in
        gspo) learn $a $seed --set learn.minibatches=2 & ;; # so that its ratios leave 1
        ppo) learn $a $seed --set learn.value_warmup_steps=2 & ;;
        *) learn $a $seed & ;;
        esac
    done
done
wait
for a in $algorithms; do
    for seed in 1 2 3; do check "${a}_lifts_the_reward_$seed" above "$(lift ${a}_$seed)" 0.2; done
done
for seed in 1 2 3; do
    learn grpo "$seed" --set learn.learning_rate=0 --set run.folder="$work/zero_$seed"
    check "no_learning_rate_no_lift_$seed" above 0.12 "$(lift zero_$seed)"
done
check healthy_runs_raise_no_alarm bash -c "! grep -l alarms '$work'/*_[123]/metrics.jsonl"

# Killed and resumed to the bit: the value model with its moments, the adaptive coefficient, the rounds of redraws.
resumes() { # NAME OPTIONS...
    local name=$1
    shift
    run 2 "$name" --set learn.steps=5 --set checkpoint.every=2 --set checkpoint.export=true "$@" >"$work/out" 2>"$work/log"
    ZS_TEST_KILL=train:4 run 2 "${name}_killed" --set learn.steps=5 --set checkpoint.every=2 --set checkpoint.export=true "$@" \
        >"$work/out" 2>"$work/log"
    check "${name}_killed_then_resumed" exits 0 run 2 "${name}_killed" --set learn.steps=5 --set checkpoint.every=2 \
        --set checkpoint.export=true "$@" --resume
    check "${name}_to_the_bit" same "$name" "${name}_killed"
    check "${name}_same_last_loss" test "$(tail -1 "$work/$name/metrics.jsonl" | grep -o '"loss":[^,]*')" = \
        "$(tail -1 "$work/${name}_killed/metrics.jsonl" | grep -o '"loss":[^,]*')"
}
resumes ppo --set learn.algorithm=ppo --set learn.kl_target=0.05 --set learn.kl_horizon=500 --set learn.kl_coef=0.02
resumes dapo --set learn.algorithm=dapo --set learn.kl_coef=0.01
check kl_coefficient_adapts bash -c "test \$(grep -o '\"kl_coef\":[^,]*' '$work/ppo/metrics.jsonl' | sort -u | wc -l) -gt 3"
check dapo_draws_more_rounds grep -q '"rollout_rounds":[234]' "$work/dapo/metrics.jsonl"
for n in 1 3; do # on other numbers of ranks the value model comes from the same stripes
    cp -r "$work/ppo_killed" "$work/ppo_on_$n"
    rm -rf "$work/ppo_on_$n/model"
    check "ppo_resumes_on_${n}_ranks" exits 0 run $n "ppo_on_$n" --set learn.algorithm=ppo --set learn.steps=6 --set learn.kl_coef=0.02 \
        --set learn.kl_target=0.05 --resume
done

resumes igpo --set reward.information_gain=0.5 --set rollout.max_turns=2
check information_gain_is_measured grep -q '"information_gain":-\{0,1\}[0-9.]*[1-9]' "$work/igpo/metrics.jsonl"

# A value model of one's own, and a folder that is none.
check value_model_is_made exits 0 "$ZS" init --from "$smoke/model" --value-head --out "$work/value"
check ppo_takes_a_value_model exits 0 run 1 ppo_own --set learn.algorithm=ppo --set model.value="$work/value" --set learn.steps=1
check policy_as_value_model_is_refused exits 2 run 2 ppo_bad --set learn.algorithm=ppo --set model.value="$smoke/model" --set learn.steps=1
check policy_as_value_model_is_said_once one_message 'init --from'
check odd_settings_are_refused exits 2 run 2 odd --set learn.kl_target=1 --set learn.kl_coef=0
check odd_settings_are_said_once one_message 'kl_target'
"$ZS" train configs/smoke.cfg --set learn.algorithm=gspo --show-config >"$work/out"
check presets_are_shown grep -q 'ratio = "sequence"' "$work/out"
check presets_stand_in_the_run_folder grep -q 'advantage = "gae"' "$work/ppo/config.cfg"

# Made to collapse by a learning rate beyond reason.
collapse() { # ACTION
    run 1 "collapse_$1" --set learn.learning_rate=0.1 --set learn.steps=40 --set checkpoint.every=4 --set guard.action="$1" \
        >"$work/out" 2>"$work/log"
}
collapse warn
check collapse_is_warned_of test $? = 0 -a "$(grep -c 'guard: step' "$work/log")" -ge 1
check collapse_stands_in_the_metrics grep -q '"alarms":\["' "$work/collapse_warn/metrics.jsonl"
collapse stop
check collapse_stops_with_75 test $? = 75
at=$(sed -n 's/.*stopped by the guard after step \([0-9]*\).*/\1/p' "$work/log")
check collapse_leaves_a_checkpoint test -n "$at" -a -s "$work/collapse_stop/checkpoints/step-$at.h5"
collapse rollback
check collapse_is_rolled_back grep -q 'back to the checkpoint of step' "$work/log"
check rollback_stands_in_the_metrics grep -q '"rollback":{' "$work/collapse_rollback/metrics.jsonl"
check rollback_ends_bounded test "$(grep -c 'back to the checkpoint' "$work/log")" -le 2
run 1 collapse_skip --set learn.steps=24 --set guard.action=skip --set guard.grad_norm_z=0 >"$work/out" 2>"$work/log" # above the usual is an outlier
check outlier_is_skipped grep -q 'skipped: the gradient norm is an outlier' "$work/log"

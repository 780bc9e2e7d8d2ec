#!/usr/bin/env bash
# Rollouts a step ahead of the learners (rollout.staleness = 1) on 1 to 4 ranks: the same bits twice, after a kill, and whatever
# the ranks do meanwhile; corrected by importance weights; a policy that still learns. And groups.layout = "auto", which settles
# on a split of the ranks, and keeps to it when it is resumed. Needs build/smoke, which `make` prepares.
#   ZS: the program   ZS_MPIRUN: mpirun with its flags
. "$(dirname "$0")/smoke_checks.sh"

# An answer counts that has "bo" in it: few of the smoke model's made-up names do, and it can learn to prefer them.
for i in 1 2 3 4 5 6 7 8; do
    echo "{\"id\": \"$i\", \"question\": \"Who governs the birthplace of Binmul$i?\", \"golden_answers\": [\"bo\"]}"
done >"$work/qa.jsonl"

run() { # N FOLDER OPTIONS...: train on N ranks with the smoke settings, rollouts a step ahead
    local n=$1 folder=$2
    shift 2
    $ZS_MPIRUN -n "$n" "$ZS" train configs/smoke.cfg --set run.folder="$folder" --set run.replace=false \
        --set model.policy="$smoke/model" --set model.simulator="$smoke/model" --set checkpoint.every=1 \
        --set "data.train=[\"$work/qa.jsonl\"]" --set eval.every=0 --set learn.steps=5 --set learn.kl_coef=0.02 \
        --set learn.learning_rate=1e-3 --set reward.metric=cover_em --set rollout.questions=8 --set rollout.samples=8 \
        --set rollout.staleness=1 "$@"
}
same() { cmp "$work/$1/model/model.safetensors" "$work/$2/model/model.safetensors"; }
same_steps() { # what is told of each step, but for seconds and counters that a resumed run has not
    for f in "$1" "$2"; do
        sed -E 's/"(tokens_[a-z_]+per_s|step_seconds)":[^,]*,//g; s/"seconds":.*//' "$work/$f/metrics.jsonl" >"$work/$f.steps"
    done
    diff "$work/$1.steps" "$work/$2.steps" >"$work/log"
}
numbers() { sed -n "s/.*\"$2\":\([^,]*\),.*/\1/p" "$work/$1/metrics.jsonl"; } # FOLDER NAME: a line a step
lines() { numbers "$1" reward_mean | wc -l; }
split() { tail -1 "$work/$1/metrics.jsonl" | grep -oE '"(simulator|rollout|learner)":\{"ranks":[0-9]+' | tr -dc '0-9\n' | paste -sd' '; }

for n in 1 2 3 4; do
    check "ahead_trains_on_${n}_ranks" exits 0 run $n "$work/n$n"
    check "ahead_first_steps_play_the_first_policy_on_${n}_ranks" awk -v a="$(numbers n$n log_prob_mismatch | head -1)" 'BEGIN {exit !(a < 1e-4)}'
    check "ahead_later_steps_play_an_older_policy_on_${n}_ranks" awk -v b="$(numbers n$n log_prob_mismatch | sed -n 3p)" 'BEGIN {exit !(b > 1e-3)}'
    check "ahead_weights_correct_on_${n}_ranks" awk -v w="$(numbers n$n importance_weight | sed -n 3p)" 'BEGIN {exit !(w > 0.5 && w < 1.5 && w != 1)}'
    exits 0 run $n "$work/again$n"
    check "ahead_same_seed_same_bits_on_${n}_ranks" same n$n again$n
    ZS_TEST_KILL=train:3 run $n "$work/killed$n" >"$work/out" 2>"$work/log"
    check "ahead_killed_on_${n}_ranks" test "$(lines killed$n)" = 2
    check "ahead_resumed_on_${n}_ranks" exits 0 run $n "$work/killed$n" --resume
    check "ahead_resumed_to_the_bit_on_${n}_ranks" same n$n killed$n
    check "ahead_resumed_metrics_on_${n}_ranks" same_steps n$n killed$n
done
check ahead_tells_of_each_batch_once test "$(sed 's/.*"step":\([0-9]*\),.*/\1/' "$work/n3/episodes.jsonl" | sort -n | uniq -c | awk '{print $1 $2}' | paste -sd' ')" = "21 22 23 24 25"
exits 0 run 3 "$work/now" --set rollout.staleness=0
check ahead_is_another_run bash -c "! cmp -s '$work/n3/model/model.safetensors' '$work/now/model/model.safetensors'"
cp -r "$work/n2" "$work/moved"
rm -rf "$work/moved/model"
rm "$work/moved/checkpoints/step-5.h5"
check ahead_batch_moves_to_other_ranks exits 0 run 4 "$work/moved" --resume --set groups.layout=split --set groups.simulators=1 --set groups.rollouts=1 --set groups.learners=2
check ahead_bf16_trains exits 0 run 3 "$work/bf16" --set rollout.dtype=bf16
exits 0 run 3 "$work/bf16again" --set rollout.dtype=bf16
check ahead_bf16_same_bits same bf16 bf16again
check ahead_with_kl_in_reward_and_minibatches exits 0 run 3 "$work/kl" --set learn.kl_in=reward --set learn.minibatches=2
check ahead_pods_train exits 0 run 4 "$work/pods" --set groups.layout=split --set groups.pods=2 --set groups.rollouts=1 \
    --set groups.learners=1 --set search.engine=none
# The reward: mean of the first and of the last steps.
exits 0 run 3 "$work/long" --set learn.steps=24 --set checkpoint.every=0 --set search.engine=none --set rollout.max_turns=1
check ahead_learns awk -v r="$(numbers long reward_mean | paste -sd' ')" 'BEGIN {n = split(r, x, " "); for (i = 1; i <= 6; i++) {a += x[i]; b += x[n + 1 - i]}; exit !(n == 24 && b > a + 0.3)}'

settle() { # FOLDER OPTIONS...: learners with eight times their work, on 4 ranks without simulators
    local folder=$1
    shift
    run 4 "$folder" --set groups.settle_steps=2 --set search.engine=none --set rollout.max_turns=1 --set groups.rollouts=3 \
        --set groups.learners=1 --set learn.epochs=8 --set rollout.staleness=0 "$@"
}
check settles exits 0 settle "$work/settled"
check settled_is_said_once test "$(grep -c 'groups.layout = auto: by 2 steps, 0 simulators, ' "$work/log")" = 1
more_learners() { read -r rollouts learners <<<"$(split "$1")"; [ "$learners" -gt 1 ] && [ $((rollouts + learners)) = 4 ]; }
check settled_on_more_learners more_learners settled
check settled_run_is_whole test "$(numbers settled reward_mean | wc -l)" = 5
rm -rf "$work/settled/model" "$work/settled/checkpoints/step-5.h5"
found=$(split settled)
check settled_resumes exits 0 settle "$work/settled" --resume
check settled_resumes_as_it_was test "$(split settled)" = "$found"
check settled_resumes_without_a_word test "$(grep -c 'groups.layout = auto' "$work/log")" = 0
check settles_ahead exits 0 settle "$work/settled_ahead" --set rollout.staleness=1
check settled_ahead_is_whole test "$(numbers settled_ahead reward_mean | wc -l)" = 5
check settles_not_when_told exits 0 settle "$work/told" --set groups.settle_steps=0
check settles_not_when_told_stays test "$(split told)" = "3 1"

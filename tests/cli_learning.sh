#!/usr/bin/env bash
# The demo in miniature: killed once, started again, and at its end the policy has learned to search and read. A minute or two on
# two cores; the regression test of learning.   ZS: the program
case $ZS in */asan/*)
    echo "skip learning (sanitizers make it too slow)"
    exit 0
    ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export DEMO=$work/demo SEED=5 RANKS=2 ZS
export WORLD="--base-1 8000 --base-2 10000 --simulator 3000 --questions 100"
export TRAIN="--set learn.steps=24 --set eval.every=8 --set eval.questions=60 --set checkpoint.every=4"
demo=$(dirname "$0")/../jobs/demo.sh

check() { # NAME COMMAND...
    local name=$1
    shift
    if "$@"; then echo "ok $name"; else
        echo "not ok $name"
        tail -15 "$work/log"
    fi
}
em() { sed -n 's/.*"em": \([0-9.]*\).*/\1/p' "$DEMO/train/eval_$1.json" | head -1; }
at_least() { awk -v a="$1" -v b="$2" 'BEGIN {exit !(a != "" && a >= b)}'; }
at_most() { awk -v a="$1" -v b="$2" 'BEGIN {exit !(a != "" && a <= b)}'; }

# Kill it in the middle of the first training stage: wait for a checkpoint to come, however slow the machine is.
setsid "$demo" >"$work/log" 2>&1 &
pid=$!
for _ in $(seq 3000); do
    if [ "$(wc -l 2>/dev/null <"$DEMO/base_1/metrics.jsonl")" -gt 50 ] 2>/dev/null; then break; fi
    sleep 0.2
done
kill -KILL -- -$pid
pkill -KILL -f "$DEMO"
wait $pid 2>/dev/null
check demo_was_killed_in_its_first_training test ! -e "$DEMO/base_1/model/config.json" -a -s "$DEMO/base_1/metrics.jsonl"

"$demo" >"$work/out" 2>"$work/log"
check demo_goes_on_to_its_end test $? = 0
check demo_writes_a_table grep -q "after RL" "$work/out"
check policy_answers_little_before at_most "$(em before_greedy)" 0.25
check policy_learns_to_search at_least "$(em after_greedy)" 0.4
check policy_learns_to_search_when_sampled at_least "$(em after_sampled)" 0.25
check policy_knows_nothing_by_heart at_most "$(em after_no_search)" 0.1
check finished_demo_does_nothing_again bash -c "'$demo' >'$work/out' 2>'$work/log' && ! grep -q stage '$work/log'"

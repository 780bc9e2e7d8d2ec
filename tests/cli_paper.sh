#!/usr/bin/env bash
# The paper's tables, three cells of them in miniature: killed in the middle, gone on, and a report that shows what the runs hold and
# says what is missing.   ZS: the program
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$(cd "$(dirname "$0")/.." && pwd)
paper=$root/jobs/paper.sh
python=${ZS_PYTHON:-/usr/bin/python3}
export ZS PAPER=$work/paper PAPER_SEEDS="1 2" PAPER_STEPS=1 RANKS=1 OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=$work
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}
export WORLD="--base-1 60 --base-2 60 --simulator 40 --instruct 20 --questions 6"
export TRAIN="--set rollout.questions=2 --set rollout.samples=2 --set eval.questions=2 --set checkpoint.every=1"

check() { # NAME COMMAND...
    local name=$1
    shift
    if "$@"; then echo "ok $name"; else
        echo "not ok $name"
        tail -15 "$work/log"
    fi
}
list_and_report_agree() {
    diff <("$python" "$root/analysis/paper.py" --cells | sort) \
        <(PAPER_SEEDS=1 "$paper" --list | awk '$2 == "train" || $2 == "eval" || $2 == "simulator_eval" {sub("/.*", "", $1); print $1}' | sort) >"$work/log"
}
check every_evaluated_cell_is_in_a_table list_and_report_agree
"$paper" zerosearhc >"$work/log" 2>&1
check unknown_cell_is_refused test $? = 2
check unknown_cell_is_named grep -q zerosearhc "$work/log"

# killed after the first step of RL, whose checkpoint is written
ZS_TEST_KILL=train:1 PAPER_SEEDS=1 "$paper" zerosearch >"$work/log" 2>&1
check killed_run_fails test $? != 0
check killed_cell_is_not_done test ! -e "$PAPER/zerosearch/seed-1/done" -a -e "$PAPER/simulator_m/seed-1/done"
"$paper" zerosearch search/seed-2 >"$work/out" 2>"$work/log"
check goes_on_to_its_end test $? = 0
check what_was_done_is_kept bash -c "! grep -qE 'paper: (world|base_1_m|base_2_m|simulator_m)/seed-1' '$work/log'"
check cells_are_done test "$(PAPER_SEEDS="1 2" "$paper" --list | grep -cE '^(zerosearch/seed-[12]|search/seed-2) .* done$')" = 3

# a simulator, by two searches in place of those that a policy would do
mkdir -p "$PAPER/searches/seed-1"
"$python" - "$PAPER" <<'PYTHON'
import json, sys
with open(sys.argv[1] + "/world/seed-1/qa_test.jsonl") as questions, open(sys.argv[1] + "/searches/seed-1/answered.jsonl", "w") as out:
    for row in [json.loads(next(questions)) for _ in range(2)]:
        out.write(json.dumps({"query": row["question"], "question": row["question"], "golden_answers": row["golden_answers"]}) + "\n")
PYTHON
echo 1 >"$PAPER/searches/seed-1/done"
"$paper" quality_prompted_m/seed-1 >"$work/out" 2>"$work/log"
check simulator_is_measured test $? = 0 -a -e "$PAPER/quality_prompted_m/seed-1/done"

# numbers that an untrained model does not have, put where the evaluations wrote theirs
"$python" - "$PAPER" <<'PYTHON'
import json, sys
for cell, seed, em in (("zerosearch", 1, 0.5), ("zerosearch", 2, 0.75), ("search", 2, 0.25)):
    path = f"{sys.argv[1]}/{cell}/seed-{seed}/eval.json"
    table = json.load(open(path))
    names = [one["name"] for one in table["sets"]]
    assert names == ["qa_test", "qa_test_relations", "qa_test_hops", "qa_test_phrasing"], names
    for one in table["sets"]:
        one["em"] = em
    json.dump(table, open(path, "w"))
PYTHON
check four_sets_are_evaluated test $? = 0
"$python" - "$PAPER" <<'PYTHON'
import json, os, sys
measured = json.load(open(sys.argv[1] + "/quality_prompted_m/seed-1/simulator.json"))
names = [one["name"] for one in measured["sources"]]
assert names == ["simulate_sft, useful", "simulate_sft, noisy", "corpus"] and measured["sources"][0]["n"] == 2, measured
def put(cell, seed, useful, noisy, real):
    folder = f"{sys.argv[1]}/{cell}/seed-{seed}"
    os.makedirs(folder, exist_ok=True)
    for one, holds in zip(measured["sources"], (useful, noisy, real)):
        one.update(holds=holds, valid=holds / 2)
    json.dump(measured, open(folder + "/simulator.json", "w"))
    open(folder + "/done", "w").write("1\n")
put("quality_prompted_m", 1, 0.5, 0.25, 1)
put("quality_prompted_m", 2, 0.5, 0.5, 0.5)
put("quality_tuned_m", 1, 1, 0.25, 1)
put("quality_tuned_m", 2, 1, 0.25, 0.5)
PYTHON
check three_sources_are_measured test $? = 0
"$python" "$root/analysis/paper.py" "$PAPER" 2>"$work/log"
check report_is_made test $? = 0 -a -s "$PAPER/report.html"
report=$PAPER/report.md
# 0.5 and 0.75: mean 0.625, standard deviation 0.25 / sqrt 2
check mean_and_spread_over_seeds grep -qF '| ZeroSearch, base | zerosearch | 2 | 0.625 ± 0.177 |' "$report"
check one_seed_has_no_spread grep -qF '| search agent by prompt, base | search | 1 | 0.250 | 0.250 | 0.250 | 0.250 | 0.250 |' "$report"
check the_rest_is_missing grep -qF '| PPO | ppo | missing | missing | missing | missing | missing | missing |' "$report"
check findings_are_computed grep -qF 'zerosearch − search = +0.500 EM over 1 seed' "$report"
check findings_without_numbers_are_open grep -qF 'Open: search_r1 missing.' "$report"
check simulators_are_shown grep -qF '| prompted, M | quality_prompted_m | 2 | 0.500 ± 0.000 | 0.375 ± 0.177 | 0.250 ± 0.000 | 0.188 ± 0.088 |' "$report"
check real_engine_is_shown_once grep -qF '| real engine | corpus | 2 | 0.750 ± 0.354 |  | 0.375 ± 0.177 |  |' "$report"
check missing_simulators_are_told grep -qF "| tuned on collected searches, L | quality_collected_l | missing | missing |" "$report"
# 0.75 - 0.25 and 0.75 - 0
check simulators_are_compared grep -qF 'agrees (quality_tuned_m − quality_prompted_m = +0.625 ± 0.177 obedience over 2 seeds' "$report"
check open_simulator_findings_are_told grep -qF 'Open: quality_collected_m missing.' "$report"

# curves that are known: a reward that rises by 1/16 a step, and one that swings about 0.5
"$python" - "$work/curves" <<'PYTHON'
import json, os, sys
for cell, reward in (("zerosearch", lambda step: step / 16), ("search_r1", lambda step: 0.25 + step % 2 / 2), ("search", None)):
    for seed in (1, 2):
        folder = f"{sys.argv[1]}/{cell}/seed-{seed}"
        os.makedirs(folder)
        names = ["qa_test", "qa_test_relations", "qa_test_hops", "qa_test_phrasing"]
        json.dump({"sets": [{"name": name, "em": 0.125 if reward is None else 0.5} for name in names]}, open(f"{folder}/eval.json", "w"))
        open(f"{folder}/done", "w").write("1\n")
        if reward:
            with open(f"{folder}/metrics.jsonl", "w") as out:
                out.writelines(json.dumps({"step": step, "reward_mean": reward(step)}) + "\n" for step in range(1, 17))
PYTHON
"$python" "$root/analysis/paper.py" "$work/curves" 2>"$work/log"
report=$work/curves/report.md
check late_reward grep -qF 'The miniature agrees (zerosearch − search_r1 = +0.406 ± 0.000 late reward over 2 seeds).' "$report"
check early_reward grep -qF 'The miniature agrees (search_r1 − zerosearch = +0.344 ± 0.000 early reward over 2 seeds).' "$report"
check steadiness grep -qF 'The miniature agrees (zerosearch − search_r1 = +0.535 ± 0.000 steadiness over 2 seeds).' "$report"
check equal_cells_settle_nothing grep -qF 'does not settle it: the difference is within the spread (zerosearch − search_r1 = +0.000 ± 0.000 EM' "$report"
check gain_needs_both_starts grep -qF 'Appendix B: the base start gains more. Open: zerosearch_instruct missing.' "$report"

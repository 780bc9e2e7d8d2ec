#!/usr/bin/env bash
# A simulation-tuning set from the smoke model's searches: the same on any number of ranks, killed and resumed to the
# bit, taken by sft, and the simulator measured beside the corpus. Needs build/smoke, which `make` prepares.
. "$(dirname "$0")/smoke_checks.sh"
collect() { # N FOLDER OPTIONS...
    local n=$1 folder=$2
    shift 2
    $ZS_MPIRUN -n "$n" "$ZS" collect configs/smoke.cfg --set model.policy="$smoke/model" --set run.folder="$work/$folder" \
        --set run.replace=false --set "data.train=[\"$smoke/world/qa_dev.jsonl\"]" --set data.corpus="$smoke/world/corpus_dev.jsonl" \
        --set collect.judge=contains --set collect.questions=24 --set collect.samples=2 --set collect.chunk=8 \
        --set collect.balance=false --set search.words=30 --set rollout.round_steps=8 "$@"
}
files() { (cd "$work/$1" && cat trajectories.jsonl pairs.jsonl train.jsonl held_out.jsonl queries.jsonl); }
same() { [ "$(files "$1" | md5sum)" = "$(files "$2" | md5sum)" ]; }
one_message() { [ "$(grep -c "$1" "$work/log")" = 1 ]; }

check collect exits 0 collect 1 one
check collect_on_two_ranks exits 0 collect 2 two
check ranks_make_no_difference same one two
python=${ZS_PYTHON:-/usr/bin/python3}
check searches_go_deeper "$python" - "$work/one" <<'PYTHON'
import json, sys
searches = [s for row in open(sys.argv[1] + "/trajectories.jsonl") for s in json.loads(row)["searches"]]
marks = lambda text: text.count("\nDoc ") + text.startswith("Doc 1: ")
assert searches and all(marks(s["documents"]) <= 3 for s in searches), "more than search.top_k are shown"
assert any(len(s["further"]) == 6 for s in searches) and all(len(s["further"]) <= 6 for s in searches)
assert all(text not in s["documents"] for s in searches for text in s["further"])
PYTHON
check no_deeper_where_none_is_wanted exits 0 collect 1 plain --set collect.depth=3
check no_deeper_search_is_made bash -c "! grep -q '\"further\":\\[\"' '$work/plain/trajectories.jsonl'"
check every_episode_is_kept test "$(wc -l <"$work/one/trajectories.jsonl")" = 48
ZS_TEST_KILL=collect:16 collect 2 killed >"$work/out" 2>"$work/log"
check killed_keeps_what_was_played test "$(wc -l <"$work/killed/trajectories.jsonl")" = 32
check a_folder_in_use_is_refused exits 2 collect 2 killed
check resumed exits 0 collect 2 killed --resume
check resumed_to_the_bit same two killed
check another_seed_is_refused exits 2 collect 2 killed --resume --set seed=2
check another_seed_is_named one_message 'seed: is not what the trajectories'
check another_depth_is_refused exits 2 collect 2 killed --resume --set collect.depth=30
check another_depth_is_named one_message 'collect.depth: is not what the trajectories'

# A judge that always says yes, and one that says neither.
echo 'Verdict:' >"$work/verdict.txt"
echo '{"prompt":"Verdict:","completion":" yes"}' >"$work/yes.jsonl"
exits 0 "$ZS" sft --set model.policy="$smoke/model" --set "sft.data=[\"$work/yes.jsonl\"]" --set sft.steps=300 \
    --set learn.learning_rate=1e-2 --set run.folder="$work/judge"
check judged_anew exits 0 collect 2 killed --resume --set collect.judge=llm --set model.judge="$work/judge/model" \
    --set collect.judge_template="$work/verdict.txt"
check judge_says_yes grep -q '"noisy": 0,' "$work/killed/collect.json"
check judge_is_understood grep -q '"undecided": 0,' "$work/killed/collect.json"
check nothing_left_is_an_error exits 1 collect 1 killed --resume --set collect.judge=llm --set model.judge="$smoke/model" \
    --set collect.judge_template="$work/verdict.txt"
check nothing_left_is_told one_message 'no example is left'
check no_judge_is_told exits 2 collect 1 killed --resume --set collect.judge=llm

# Rows of one's own, with known ends.
cat >"$work/searches.jsonl" <<'LINES'
{"query":"q {x}","question":"Q?","golden_answers":["Aa","Bb"],"label":"noisy","documents":["it is bb.",{"title":"T","text":"one two. three"},{"title":"","text":""},"four"]}
{"query":"r","question":"R?","golden_answers":["Rome"],"label":"useful","documents":["Rome it is."]}
LINES
printf 'Q={query} A={answer} k={topk} w={words}\n' >"$work/template.txt"
from() {
    "$ZS" collect --from "$work/searches.jsonl" --set run.folder="$work/from" --set collect.held_out=0 --set search.words=2 \
        --set search.useful_template="$work/template.txt" --set search.noisy_template="$work/template.txt" "$@"
}
check from_searches exits 0 from
printf '%s\n' '{"prompt":"Q=q {x} A=Aa or Bb k=5 w=2","completion":"Doc 1: \"T\" one two.\nDoc 2: four"}' \
    '{"prompt":"Q=r A=Rome k=5 w=2","completion":"Doc 1: Rome it is."}' >"$work/expected"
check from_searches_writes cmp "$work/from/train.jsonl" "$work/expected"

# A useful search whose documents hold the answer gives a noisy example beside it, of what else was found.
cat >"$work/deep.jsonl" <<'LINES'
{"query":"r","question":"R?","golden_answers":["Rome"],"label":"useful","documents":["one","Rome it is.","two"],"further":["To Rome.","three","four"]}
{"query":"s","question":"S?","golden_answers":["Oslo"],"label":"useful","documents":["one","two","three"],"further":["Oslo."]}
LINES
deep() { # FOLDER OPTIONS...
    "$ZS" collect --from "$work/deep.jsonl" --set run.folder="$work/$1" --set search.top_k=3 --set collect.held_out=0 \
        --set collect.balance=false --set search.useful_template="$work/template.txt" \
        --set search.noisy_template="$work/template.txt" "${@:2}"
}
check contrast exits 0 deep deep
printf '%s\n' '"completion":"Doc 1: one\nDoc 2: Rome it is.\nDoc 3: two"' '"completion":"Doc 1: one\nDoc 2: two\nDoc 3: three"' \
    '"completion":"Doc 1: one\nDoc 2: two\nDoc 3: three"' >"$work/expected"
check contrast_writes cmp <(grep -o '"completion":.*"' "$work/deep/train.jsonl" | sort) <(sort "$work/expected")
check contrast_is_counted grep -q '"contrast": 1,' "$work/deep/collect.json"
check contrast_is_told test "$(grep -c '"verdict":"noisy","contrast":true,' "$work/deep/pairs.jsonl")" = 1
check no_contrast_where_none_is_wanted exits 0 deep plain_deep --set collect.contrast=false
check no_contrast_is_made grep -q '"contrast": 0,' "$work/plain_deep/collect.json"
sed 's/"[RS]?"/"another question"/' "$work/deep.jsonl" | head -1 >"$work/more.jsonl"
{ head -1 "$work/deep.jsonl" && cat "$work/more.jsonl"; } >"$work/both.jsonl" && mv "$work/both.jsonl" "$work/deep.jsonl"
check contrast_is_held_out_too exits 0 deep held --set collect.held_out=0.5 --set collect.deduplicate=question
check contrast_is_in_the_same_part test "$(wc -l <"$work/held/held_out.jsonl")" = 2
check contrast_asks_once_for_a_query test "$(wc -l <"$work/held/queries.jsonl")" = 1
echo '{"query":"q"}' >>"$work/searches.jsonl"
check bad_row exits 1 from
check bad_row_is_named one_message 'searches.jsonl:3: key "question"'

check sft_takes_it exits 0 $ZS_MPIRUN -n 2 "$ZS" sft --set model.policy="$smoke/model" --set "sft.data=[\"$work/one/train.jsonl\"]" \
    --set sft.steps=3 --set sft.batch_tokens=1024 --set run.folder="$work/simulator"
measure() { # N OPTIONS...
    local n=$1
    shift
    $ZS_MPIRUN -n "$n" "$ZS" eval configs/smoke.cfg --simulator --set model.simulator="$work/simulator/model" \
        --set data.corpus="$smoke/world/corpus_dev.jsonl" "$@"
}
check eval_simulator exits 0 measure 2 --queries "$work/one/queries.jsonl" --set eval.questions=6 --out "$work/table.json"
check eval_simulator_prints_three_rows test "$(grep -cE '^(simulate_sft, (useful|noisy)|corpus) ' "$work/out")" = 3
check eval_simulator_writes grep -q '"distinct_2"' "$work/table.json"
check eval_simulator_of_questions exits 0 measure 1 --set eval.questions=4 --set "data.eval=[\"$smoke/world/qa_dev.jsonl\"]"
check eval_simulator_of_corpus_is_refused exits 2 measure 1 --set search.engine=corpus --queries "$work/one/queries.jsonl"
for shape in demo-s demo demo-l; do
    check "init_$shape" exits 0 "$ZS" init --shape $shape --wired --tokenizer "$smoke/world" --out "$work/$shape"
done

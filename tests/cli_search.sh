#!/bin/bash
# score, index and the converter as a user calls them: right answers, one message and the right exit code for
# bad input.
shared=${SHARED:-${ZS_SHARED:-../shared}}
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
words=$folder/words
failed=0
check() { # name, condition's status
    if [ "$2" -eq 0 ]; then echo "ok $1"; else echo "not ok $1"; failed=1; sed 's/^/# /' "$words"; fi
}
: >"$words"

# Score: expected values by hand.
cat >"$folder/predictions.jsonl" <<'LINES'
{"prediction":"The Beatles","golden_answers":["Beatles","Wings"],"id":7}
{"prediction":"in New York","golden_answers":["New York"]}

{"prediction":"","golden_answers":["x"]}
LINES
"$ZS" score <"$folder/predictions.jsonl" >"$folder/scores" 2>"$words"
check score_runs $?
[ "$(wc -l <"$folder/scores")" -eq 4 ]; check score_one_line_each_and_the_mean $?
head -n 1 "$folder/scores" | grep -q '"id":7.*"em":1,"cover_em":1,"f1":1.0'; check score_keeps_the_object $?
sed -n 2p "$folder/scores" | grep -q '"em":0,"cover_em":1,"f1":0.8'; check score_partial $?
tail -n 1 "$folder/scores" | grep -Eq '^\{"mean":\{"em":0.33333.*,"cover_em":0.66666.*,"f1":0.(59999|6).*\},"n":3\}$'
check score_mean $?

echo '{"prediction":"x"}' >>"$folder/predictions.jsonl"
"$ZS" score --input "$folder/predictions.jsonl" >/dev/null 2>"$words"
[ $? -eq 1 ]; check score_bad_line_fails $?
grep -q "predictions.jsonl:5.*golden_answers" "$words"; check score_bad_line_is_named $?
[ "$(grep -c 'golden_answers' "$words")" -eq 1 ]; check score_says_it_once $?
echo '{"prediction":' >"$folder/torn.jsonl"
"$ZS" score <"$folder/torn.jsonl" >/dev/null 2>"$words"
[ $? -eq 1 ] && grep -q "stdin:1" "$words"; check score_torn_line $?
"$ZS" score --nonsense >/dev/null 2>"$words"
[ $? -eq 2 ]; check score_wrong_usage $?

if [ -e "$shared/golden/score.jsonl" ]; then
    # The golden figures are overwritten by ours: nothing may change.
    "$ZS" score --input "$shared/golden/score.jsonl" 2>"$words" | sed '$d' >"$folder/scores"
    python3 - "$shared/golden/score.jsonl" "$folder/scores" >"$words" 2>&1 <<'PYTHON'
import json, sys
golden, ours = ([json.loads(line) for line in open(path, encoding="utf-8")] for path in sys.argv[1:])
assert len(golden) == len(ours) > 0
for g, o in zip(golden, ours):
    assert (g["em"], g["cover_em"]) == (o["em"], o["cover_em"]) and abs(g["f1"] - o["f1"]) < 1e-9, (g, o)
PYTHON
    check score_golden $?
else
    echo "skip score_golden (no $shared/golden/score.jsonl)"
fi

# Index.
cat >"$folder/corpus.jsonl" <<'LINES'
{"id":"p0","contents":"\"Jeff Porcaro\"\nA drummer of the band Toto."}
{"id":"p1","contents":"\"Toto\"\nA rock band of Los Angeles."}
{"id":"p2","contents":"Tanbur Gustin was born in Tuvuvo."}
LINES
cat >"$folder/qa.jsonl" <<'LINES'
{"id":"a","question":"Where was Tanbur Gustin born?","golden_answers":["Tuvuvo"],"gold":["p2"]}
{"id":"b","question":"Where is the band of Jeff Porcaro from?","golden_answers":["Los Angeles"],"gold":["p0","p9"]}
{"id":"c","question":"No gold here?","golden_answers":["x"]}
LINES
"$ZS" index --corpus "$folder/corpus.jsonl" --query 'birthplace of "Tanbur" Gustin OR' --top 1 >"$folder/found" 2>"$words"
check index_runs $?
[ -s "$folder/corpus.jsonl.fts5" ]; check index_is_made $?
grep -q '^{"id":"p2",' "$folder/found" && [ "$(wc -l <"$folder/found")" -eq 1 ]; check index_query $?
"$ZS" index --index "$folder/corpus.jsonl.fts5" --recall "$folder/qa.jsonl" --top 1,3 >"$folder/found" 2>"$words"
check index_recall_runs $?
grep -q '"n":2,"recall":{"1":0.75,"3":0.75}' "$folder/found"; check index_recall $?
"$ZS" index >/dev/null 2>"$words"
[ $? -eq 2 ]; check index_wrong_usage $?
"$ZS" index --index "$folder/corpus.jsonl.fts5" --query x --top 3,zero >/dev/null 2>"$words"
[ $? -eq 2 ]; check index_bad_top $?
"$ZS" index --index "$folder/missing.index" --query x >/dev/null 2>"$words"
[ $? -eq 1 ] && grep -q "missing.index" "$words"; check index_missing $?
echo '{"id":"p3"}' >>"$folder/corpus.jsonl"
"$ZS" index --corpus "$folder/corpus.jsonl" >/dev/null 2>"$words"
[ $? -eq 1 ] && grep -q "corpus.jsonl:4.*contents" "$words"; check index_bad_line $?
[ "$(ls "$folder" | grep -c tmp)" -eq 0 ]; check index_leaves_nothing_aside $?
if [ -n "$ZS_MPIRUN" ]; then # two ranks: one of them does the work, one message
    $ZS_MPIRUN -n 2 "$ZS" index --corpus "$folder/corpus.jsonl" >/dev/null 2>"$words"
    [ $? -ne 0 ] && [ "$(grep -c 'corpus.jsonl:4' "$words")" -eq 1 ]; check index_two_ranks_one_message $?
    $ZS_MPIRUN -n 2 "$ZS" index --index "$folder/corpus.jsonl.fts5" --query Toto >"$folder/found" 2>"$words"
    [ $? -eq 0 ] && [ "$(wc -l <"$folder/found")" -eq 2 ]; check index_two_ranks_one_answer $?
fi

# A build that is killed, or finds the disk full, goes on where it was; the index is the same as of one run.
python3 - "$folder/long.jsonl" <<'PYTHON'
import sys
with open(sys.argv[1], "w", encoding="utf-8") as file:
    for i in range(6000):
        words = "all " + " ".join("w%d" % (i * k % 4999) for k in range(1, 20))
        file.write('{"id":"d%d","contents":"\\"T%d\\"\\n%s"}\n' % (i, i // 3, words))
PYTHON
gzip -k "$folder/long.jsonl"
# Same passages and, for words of each list length, the same passages in the same order. Files hold them in other pages.
same_index() { # one, other
    python3 - "$1" "$2" >>"$words" 2>&1 <<'PYTHON'
import sqlite3, sys
one, other = (sqlite3.connect("file:%s?immutable=1" % path, uri=True) for path in sys.argv[1:])
for query in ("SELECT count(*), min(id), max(length(contents)) FROM passages", "SELECT * FROM passages ORDER BY row",
              "SELECT * FROM frequent ORDER BY word", "SELECT * FROM words_docsize",
              *("SELECT rowid FROM words WHERE words MATCH 'w%d OR t%d' ORDER BY bm25(words), rowid LIMIT 50" % (i, i)
                for i in range(0, 2000, 97))):
    a, b = (index.execute(query).fetchall() for index in (one, other))
    assert a and a == b, query
PYTHON
}
"$ZS" index --corpus "$folder/long.jsonl" >"$folder/found" 2>"$words"
check index_whole_run $?
killed() { # name, corpus, where
    { ZS_TEST_TRANSACTION=100000 ZS_TEST_KILL=$3 "$ZS" index --corpus "$2" --index "$folder/again.fts5"; } >/dev/null 2>"$words"
    [ $? -eq 137 ] && [ ! -e "$folder/again.fts5" ] && [ -s "$folder/again.fts5.part" ]
    check "$1_killed" $?
    "$ZS" index --index "$folder/again.fts5" --query w1 >/dev/null 2>"$words"
    [ $? -eq 1 ] && grep -q 'not complete yet.*goes on with it' "$words" && [ "$(wc -l <"$words")" -le 2 ]
    check "$1_is_not_searched" $?
    ZS_TEST_TRANSACTION=100000 "$ZS" index --corpus "$2" --index "$folder/again.fts5" >/dev/null 2>"$words"
    [ $? -eq 0 ] && grep -Eq 'goes on after [1-9][0-9]* passages' "$words"
    check "$1_goes_on" $?
    same_index "$folder/long.jsonl.fts5" "$folder/again.fts5"
    check "$1_same" $?
    [ -z "$(ls "$folder" | grep -F .part)" ]; check "$1_nothing_left" $?
    rm -f "$folder"/again.*
}
killed index_plain "$folder/long.jsonl" index:4321
killed index_gzip "$folder/long.jsonl.gz" index:4321
killed index_merge "$folder/long.jsonl" merge:0

python3 - "$folder/wide.jsonl" <<'PYTHON'
import sys
with open(sys.argv[1], "w", encoding="utf-8") as file:
    for i in range(4000):
        file.write('{"id":"d%d","contents":"d%d %s"}\n' % (i, i, "filler " * 600))
PYTHON
(trap '' XFSZ; ulimit -f 12288; export ZS_TEST_TRANSACTION=1000000
    exec "$ZS" index --corpus "$folder/wide.jsonl" --index "$folder/again.fts5") >/dev/null 2>"$words"
[ $? -eq 1 ] && [ "$(grep -c 'cannot be written' "$words")" -eq 1 ] && grep -q 'again.fts5.part.*run again' "$words"
check index_full_disk_one_message $?
"$ZS" index --corpus "$folder/wide.jsonl" --index "$folder/again.fts5" --query d3999 >"$folder/found" 2>"$words"
[ $? -eq 0 ] && grep -Eq 'goes on after [1-9]' "$words" && grep -q '^{"id":"d3999"' "$folder/found"
check index_full_disk_then_room $?
rm -f "$folder"/again.* "$folder/wide.jsonl"

# A source that changed in between is read anew; two builders at once do not disturb each other.
ZS_TEST_TRANSACTION=100000 ZS_TEST_KILL=index:4321 "$ZS" index --corpus "$folder/long.jsonl" \
    --index "$folder/again.fts5" >/dev/null 2>&1
sed -i 's/"d5999"/"dlast"/' "$folder/long.jsonl"
"$ZS" index --corpus "$folder/long.jsonl" --index "$folder/again.fts5" --query "t1999 w998" --top 3 >"$folder/found" 2>"$words"
[ $? -eq 0 ] && grep -q '"dlast"' "$folder/found" && ! grep -q 'goes on after' "$words"; check index_changed_source $?
rm -f "$folder"/again.*
for i in 1 2 3; do
    "$ZS" index --corpus "$folder/long.jsonl" --index "$folder/again.fts5" >/dev/null 2>"$folder/words$i" &
    builders[i]=$!
done
good=0 told=0
for i in 1 2 3; do
    if wait "${builders[i]}"; then good=$((good + 1)); else told=$((told + $(grep -c 'another process' "$folder/words$i"))); fi
done
cat "$folder"/words[123] >"$words"
[ "$good" -ge 1 ] && [ $((good + told)) -eq 3 ] && "$ZS" index --index "$folder/again.fts5" --query w7 >/dev/null 2>&1
check index_builders_at_once $?
python3 -c 'import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute("PRAGMA user_version = 20561")' "$folder/again.fts5"
"$ZS" index --index "$folder/again.fts5" --query w7 >/dev/null 2>"$words"
[ $? -eq 1 ] && grep -q 'again.fts5: is no complete passage index of this version' "$words"; check index_other_version $?
head -c 30000 "$folder/long.jsonl.gz" >"$folder/torn.jsonl.gz"
"$ZS" index --corpus "$folder/torn.jsonl.gz" >/dev/null 2>"$words"
[ $? -eq 1 ] && grep -q 'torn.jsonl.gz: cannot be read' "$words" && [ "$(grep -c torn "$words")" -eq 1 ]; check index_torn_gzip $?

# The generated corpus: planted passages are found, by all ranks, and nothing stays behind.
mkdir "$folder/bench"
"$ZS" bench search --passages 5000 --queries 60 --folder "$folder/bench" --json >"$folder/found" 2>"$words"
[ $? -eq 0 ] && [ -z "$(ls "$folder/bench")" ]; check bench_search_runs $?
cat >"$folder/judge.py" <<'PYTHON'
import json, sys
lines = {row["bench"]: row for row in map(json.loads, sys.stdin)}
assert lines["index"]["passages"] == 5000 and lines["index"]["index_mb"] > 0 and lines["index"]["passages_per_s"] > 0
assert lines["search"]["queries"] == 60 and 0 < lines["search"]["p50_ms"] <= lines["search"]["p95_ms"]
assert lines["search"]["recall_10"] >= lines["search"]["recall_3"] >= 0.9, lines
PYTHON
python3 "$folder/judge.py" <"$folder/found" 2>"$words"; check bench_search_finds $?
if [ -n "$ZS_MPIRUN" ]; then
    $ZS_MPIRUN -n 2 "$ZS" bench search --passages 5000 --queries 60 --folder "$folder/bench" --json 2>"$words" |
        python3 "$folder/judge.py" 2>>"$words"
    check bench_search_two_ranks $?
fi

if [ -e "$shared/qa/corpus.jsonl" ]; then
    "$ZS" index --corpus "$shared/qa/corpus.jsonl" --index "$folder/real.index" \
        --recall "$shared/qa/hotpotqa.jsonl" >"$folder/found" 2>"$words"
    check index_real_corpus $?
    python3 -c 'import json, sys
recall = json.load(sys.stdin)["recall"]
assert recall["3"] >= 0.69 and recall["10"] >= 0.915, recall' <"$folder/found" 2>"$words"
    check index_real_recall $?
else
    echo "skip index_real_corpus (no $shared/qa/corpus.jsonl)"
fi

exit $failed

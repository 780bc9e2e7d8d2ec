#!/usr/bin/env bash
# A simulation-tuning set from searches with services: a retriever, a web search with a key, a server that dies in the
# middle or was never there; and text that no writer of JSON lines likes. Needs build/smoke and build/tests/test_http,
# whose `serve` is the server.
. "$(dirname "$0")/smoke_checks.sh"
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
unset SERPAPI_API_KEY
server=$(dirname "$ZS")/tests/test_http
python=${ZS_PYTHON:-/usr/bin/python3}
key='s3cret/Key+=' # what the server expects; http_server.h
servers=()
trap 'kill "${servers[@]}" 2>/dev/null; rm -rf "$work"' EXIT
if [ ! -x "$server" ]; then echo "skip cli_collect_http ($server is not built: make tests)"; exit 0; fi

serve() { # NAME [PORT]: its address in $url, its requests in $work/NAME.requests
    rm -f "$work/$1.port"
    "$server" serve "$work/$1.port" "$work/$1.requests" ${2:+"$2"} 2>/dev/null &
    servers+=("$!")
    until [ -s "$work/$1.port" ]; do sleep 0.05; done
    port=$(cat "$work/$1.port") url=http://127.0.0.1:$port
}
collect() { # N FOLDER ENGINE OPTIONS...
    local n=$1 folder=$2 engine=$3
    shift 3
    $ZS_MPIRUN -n "$n" "$ZS" collect configs/smoke.cfg --set model.policy="$smoke/model" --set run.folder="$work/$folder" \
        --set run.replace=false --set "data.train=[\"$smoke/world/qa_dev.jsonl\"]" --set collect.engine="$engine" \
        --set search.google_url="$url" --set collect.questions=24 --set collect.chunk=6 --set collect.balance=false \
        --set search.words=30 --set rollout.round_steps=8 --set search.lockstep=true --set search.backoff=0.01 \
        --set search.connect_timeout=60 --set search.timeout=120 --set groups.deadline=600 "$@"
}
files() { (cd "$work/$1" && cat trajectories.jsonl pairs.jsonl train.jsonl held_out.jsonl queries.jsonl); }
same() { [ "$(files "$1" | md5sum)" = "$(files "$2" | md5sum)" ]; }
one_message() { [ "$(grep -c "$1" "$work/log")" = 1 ]; }
episodes() { wc -l <"$work/$1/trajectories.jsonl"; }

# A retriever: asked for three times what the policy sees.
serve wiki
check http exits 0 collect 1 one http --set search.http_url="$url"
check http_on_two_ranks exits 0 collect 2 two http --set search.http_url="$url"
check http_ranks_make_no_difference same one two
check http_every_episode_is_kept test "$(episodes one)" = 24
check http_asks_the_server test "$(wc -l <"$work/wiki.requests")" -gt 10
check http_keeps_what_it_sends "$python" - "$work/one" <<'PYTHON'
import json, sys
searches = [s for row in open(sys.argv[1] + "/trajectories.jsonl") for s in json.loads(row)["searches"]]
assert searches and not any(s["failed"] for s in searches)
for s in searches:
    text = f'on {s["query"]}.'
    assert s["documents"] == "\n".join(f'Doc {i}: "Title {i}" Passage {i} {text}' for i in range(1, 4)), s
    assert s["further"] == [f'"Title {i}" Passage {i} {text}' for i in range(4, 10)], s
train = [json.loads(row) for row in open(sys.argv[1] + "/train.jsonl")]
assert train and all(row["completion"].count("Passage") == 3 for row in train)
PYTHON
check http_search_r1 exits 0 collect 2 r1 http --set search.http_url="$url/r1/retrieve" --set search.http_protocol=search_r1
check http_search_r1_gives_the_same same one r1
check http_finds_none_is_told exits 1 collect 1 none http --set search.http_url="$url/down" --set search.retries=0
check http_down_is_named one_message 'error: collect.engine = http: .*searches failed.*/down: HTTP status 500'

# A web search with a key, which shows nowhere.
check google_needs_its_key exits 2 collect 2 keyless google
check google_key_is_told_once one_message 'search.google_key_env.*SERPAPI_API_KEY'
export SERPAPI_API_KEY='wr0ng/Key+='
check google_wrong_key exits 1 collect 2 wrong google
check google_wrong_key_is_told_once one_message 'error: collect.engine = google: .*search.json: HTTP status 401'
check google_wrong_key_keeps_nothing_wrong test "$(episodes wrong)" = 0
export SERPAPI_API_KEY=$key
check google_goes_on_with_the_right_one exits 0 collect 2 wrong google --resume
check google_every_episode_is_kept test "$(episodes wrong)" = 24
check google_keeps_what_it_sends grep -q '"documents":"Doc 1: \\"Box\\" forty-two\\nDoc 2: \\"First\\" What the web says of' "$work/wrong/trajectories.jsonl"
check keys_show_nowhere bash -c "! grep -raE 's3cret|wr0ng' '$work'"

# A server that dies at its seventh request.
serve mortal
mortal() { collect 1 mortal http --set search.retries=0 --set collect.chunk=1 "$@"; }
check dead_server exits 1 mortal --set search.http_url="$url/mortal"
check dead_server_is_named_once one_message 'error: collect.engine = http: .*searches failed.*/mortal: '
cp "$work/mortal/trajectories.jsonl" "$work/kept.jsonl"
check dead_server_keeps_what_was_played test "$(episodes mortal)" -gt 0 -a "$(episodes mortal)" -lt 24
check dead_server_still exits 1 mortal --resume --set search.http_url="$url"
check dead_server_loses_nothing cmp "$work/kept.jsonl" "$work/mortal/trajectories.jsonl"
serve mortal "$port"
check server_back_goes_on exits 0 mortal --resume --set search.http_url="$url"
check server_back_all_episodes test "$(episodes mortal)" = 24
check server_back_keeps_the_first cmp "$work/kept.jsonl" <(head -n "$(wc -l <"$work/kept.jsonl")" "$work/mortal/trajectories.jsonl")
check server_back_makes_the_set test -s "$work/mortal/train.jsonl"

# At this temperature the model writes NULs and torn UTF-8, in its queries too.
rubbish() { collect 2 "$1" http --set search.http_url="$url" --set collect.temperature=2.5 --set collect.samples=32 "${@:2}"; }
check rubbish exits 0 rubbish rubbish
check rubbish_has_a_nul grep -q '\\u0000' "$work/rubbish/trajectories.jsonl"
check rubbish_has_odd_queries grep -qP '"query":"[^"]*([^\x00-\x7f]|\\u)' "$work/rubbish/trajectories.jsonl"
check rubbish_is_json "$python" - "$work/rubbish" <<'PYTHON'
import json, sys
for name in ("trajectories", "pairs", "train", "held_out", "queries"):
    for line in open(f"{sys.argv[1]}/{name}.jsonl", encoding="utf-8"):
        json.loads(line)
PYTHON
check rubbish_again exits 0 rubbish rubbish --resume
ZS_TEST_KILL=collect:12 rubbish torn >"$work/out" 2>"$work/log"
check rubbish_goes_on exits 0 rubbish torn --resume
check rubbish_goes_on_to_the_bit same rubbish torn
check sft_takes_rubbish exits 0 "$ZS" sft --set model.policy="$smoke/model" --set "sft.data=[\"$work/rubbish/train.jsonl\"]" \
    --set sft.steps=2 --set sft.batch_tokens=1024 --set run.folder="$work/simulator"

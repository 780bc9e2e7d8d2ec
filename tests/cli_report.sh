#!/bin/bash
# The report of a small made-up run: it is written, holds the curves, escapes what is in traces, and bears gaps.
report=$(dirname "$0")/../analysis/report.py
python=${ZS_PYTHON:-/usr/bin/python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export MPLCONFIGDIR=$folder/matplotlib PYTHONDONTWRITEBYTECODE=1

if ! "$python" -c 'import matplotlib' 2>/dev/null; then
    echo "skip report ($python has no matplotlib)"
    exit 0
fi

failed=0
check() { # name, condition's status
    if [ "$2" -eq 0 ]; then echo "ok $1"; else echo "not ok $1"; failed=1; sed 's/^/# /' "$folder/err" 2>/dev/null; fi
}
make_report() { "$python" "$report" "$@" >"$folder/out" 2>"$folder/err"; }
holds() { grep -qF -- "$1" "$run/report.html"; }

run=$folder/run
mkdir "$run"
cat >"$run/metrics.jsonl" <<'END'
{"step":0,"eval":{"engine":"corpus","em":0.125,"f1":0.2}}
{"step":1,"reward_mean":0.2,"reward_std":0.1,"em":0.1,"f1":0.2,"noise":0.0,"turns":1.5,"searches":0.5,"invalid_actions":0.1,"response_tokens":60,"kl":0.0,"entropy":0.7,"clip_fraction":0.0,"grad_norm":1.5,"learning_rate":1e-4,"tokens_generated_per_s":900,"tokens_trained_per_s":2000,"seconds":{"generate":2.0,"update":1.0,"reduce":0.0},"busy":{"rollouts":0.9,"learners":0.4}}
{"step":2,"reward_mean":0.9,"reward_std":0.1,"noise":0.1}
{"step":2,"reward_mean":0.5,"reward_std":null,"noise":0.1,"kl":"?","grad_norm":NaN,"eval":{"engine":"corpus","em":0.75}}
{"step":3,"reward_mean":0.6,"noi
END
cat >"$run/eval_before_greedy.json" <<'END'
{"model":"base","engine":"corpus","temperature":0,"sets":[{"name":"qa<i>","n":300,"em":0.0625,"cover_em":0.1,"f1":0.1,"turns":1,"searches":0}]}
END
cat >"$run/eval_after_greedy.json" <<'END'
{"model":"tuned","engine":"corpus","temperature":0,"sets":[{"name":"qa<i>","n":300,"em":0.8125,"f1":0.85}]}
END
echo '{"sets":' >"$run/eval_torn.json"
cat >"$run/episodes.jsonl" <<'END'
{"step":1,"question":"Who <script>alert(1)</script>?","golden_answers":["A & B"],"reward":0,"em":0,"f1":0,"turns":1,"searches":0,"spans":[{"kind":"prompt","text":"Use <think> and <b>bold</b>.\n"},{"kind":"policy","text":"<think> I know. </think><answer> C </answer>"}]}
{"step":2,"question":"Where?","golden_answers":["Here"],"reward":1,"em":1,"f1":1,"searches":1,"noisy_searches":1,"spans":[{"kind":"policy","text":"<search> where <img src=x onerror=y> </search>"},{"kind":"document","text":"<information>Doc 1: \"here\"</information>"},{"kind":"observation","text":"<answer>"},{"kind":"policy","text":" Here </answer>"}]}
END
make_report "$run" && [ -s "$run/report.html" ]
check report_is_written $?
n=0
for title in 'Reward, exact match with the engine, and noise' 'Response tokens' 'Turns, searches, invalid actions' \
    'KL to the reference' 'Entropy' 'Clip fraction' 'Gradient norm' 'Seconds per step by phase' 'Busy share of each role'; do
    holds "$title" && n=$((n + 1))
done
[ "$n" -eq 9 ] && [ "$(grep -c '<svg' "$run/report.html")" -ge 9 ]
check report_holds_the_curves $?
holds '6.2 %' && holds '81.2 %'
check report_headline $?
holds '0.812' && holds 'qa&lt;i&gt;' && ! holds 'qa<i>'
check report_evaluation_table $?
holds '&lt;script&gt;alert(1)' && holds '&lt;img src=x' && holds 'A &amp; B' && ! holds '<script' && ! holds '<img' && ! holds '<b>'
check report_escapes_traces $?
holds 'class="trace wrong"' && holds 'class="trace right"' && holds 'class="block search"' &&
    holds 'class="block information"' && holds 'class="block think"' && holds 'class="block prompt"'
check report_sets_actions_apart $?
# the opening tag of a last turn is masked, the answer's words after it are not
holds '<div class="block answer"><span class="masked" title="observation: not trained on">&lt;answer&gt;</span> Here &lt;/answer&gt;</div>'
check report_shades_masked_tokens $?
! grep -qE 'src="http|href="http[^"]*\.(css|js)|url\(http' "$run/report.html"
check report_is_self_contained $?
[ "$("$python" -c 'import html.parser, sys
opened = []
class Parser(html.parser.HTMLParser):
    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br", "img"): opened.append(tag)
    def handle_endtag(self, tag):
        if not opened or opened.pop() != tag: sys.exit("unbalanced " + tag)
Parser().feed(open(sys.argv[1], encoding="utf-8").read())
print(len(opened))' "$run/report.html" 2>>"$folder/err")" = 0 ]
check report_tags_balance $?

run=$folder/empty
mkdir "$run"
make_report "$run" && holds 'No metrics.jsonl' && holds 'No episodes.jsonl'
check report_of_an_empty_folder $?
printf '[1]\n{"step":"x"}\n{"step":1}\n{"step":2,"seconds":3,"busy":[],"eval":"no"}\n' >"$run/metrics.jsonl"
printf '{"spans":[3,{"kind":1,"text":null},{}]}\n{"spans":3}\n' >"$run/episodes.jsonl"
echo '{"sets":[3,{"em":"x"}]}' >"$run/eval.json"
make_report "$run"
check report_of_odd_records $?
! make_report "$folder/nowhere" && grep -q 'no such folder' "$folder/err"
check report_names_a_missing_folder $?
make_report "$folder/run" --out "$folder/other.html" && [ -s "$folder/other.html" ]
check report_out $?
exit $failed

#!/usr/bin/env bash
# The methods that a search agent is compared with, self-search, curricula and reward terms, as eval and train meet them.
# Needs build/smoke, which `make` prepares.   ZS: the program   ZS_MPIRUN: mpirun with its flags
. "$(dirname "$0")/smoke_checks.sh"

python() { python3 - "$@" 2>>"$work/log"; }
one_message() { [ "$(grep -c "$1" "$work/log")" = 1 ]; }
same() { cmp "$work/$1/model/model.safetensors" "$work/$2/model/model.safetensors" && cmp "$work/$1/episodes.jsonl" "$work/$2/episodes.jsonl"; }
head -4 "$smoke/world/qa_test.jsonl" >"$work/qa.jsonl"
evaluate() { # N OPTIONS...
    local n=$1
    shift
    $ZS_MPIRUN -n "$n" "$ZS" eval configs/smoke.cfg --set model.policy="$smoke/model" --set "data.eval=[\"$work/qa.jsonl\"]" \
        --set data.corpus="$smoke/world/corpus_test.jsonl" "$@"
}
train() { # N FOLDER OPTIONS...: three steps with the smoke settings
    local n=$1 folder=$2
    shift 2
    $ZS_MPIRUN -n "$n" "$ZS" train configs/smoke.cfg --set run.folder="$work/$folder" --set run.replace=false \
        --set model.policy="$smoke/model" --set model.simulator="$smoke/model" --set checkpoint.every=1 --set eval.every=0 \
        --set "data.train=[\"$smoke/world/qa_train.jsonl\"]" --set learn.steps=3 --set learn.learning_rate=1e-3 "$@"
}

# --- eval by several methods in one run ---
check eval_of_four_methods exits 0 evaluate 2 --set 'eval.methods=["direct","cot","rag","search"]' \
    --out "$work/eval.json" --predictions "$work/predictions.jsonl"
four_methods() {
    python "$work/eval.json" "$work/predictions.jsonl" "$smoke/world/corpus_test.jsonl" <<'PYTHON'
import json, sys
rows = json.load(open(sys.argv[1]))["sets"]
assert [(r["method"], r["engine"]) for r in rows] == [("direct", "none"), ("cot", "none"), ("rag", "corpus"), ("search", "corpus")], rows
assert [(r["turns"], r["searches"]) for r in rows[:3]] == [(0, 0), (0, 0), (1, 1)] and all(r["n"] == 4 for r in rows), rows
texts = {}
for line in open(sys.argv[2]):
    one = json.loads(line)
    texts.setdefault(one["method"], []).append(one["episode"])
assert all(len(t) == 4 for t in texts.values()) and len(texts) == 4
passages = [" ".join(json.loads(line)["contents"].split()) for line in open(sys.argv[3])]
assert all("\n<answer>" in t for t in texts["direct"]) and all("\n<think>" in t for t in texts["cot"])
for text in texts["rag"]:  # each prompt holds passages of the corpus
    shown = text.split("<information>", 1)[1].split("</information>", 1)[0]
    assert shown.startswith("Doc 1: ") and any(p in shown for p in passages), text
PYTHON
}
check eval_rows_name_method_and_engine four_methods
check eval_of_methods_writes_hdf5 test "$(head -c 4 "$work/eval.h5" | tail -c 3)" = HDF
check without_search_no_engine_is_needed exits 0 evaluate 1 --set data.corpus=/nowhere --set 'eval.methods=["direct","cot"]'
check unknown_method_is_refused exits 2 evaluate 2 --set 'eval.methods=["rag","react"]'
check unknown_method_is_said_once one_message 'eval.methods.*react'
check rag_template_without_documents_is_refused exits 2 evaluate 2 --set rollout.method=rag --set rollout.rag_template=prompt_demo
check rag_template_without_documents_is_said_once one_message 'rollout.rag_template'

# --- train by the other methods ---
check train_cot_without_simulator exits 0 train 2 cot --set rollout.method=cot --set model.simulator=/nowhere
check train_rag exits 0 train 3 rag --set rollout.method=rag
check train_rag_again exits 0 train 3 rag2 --set rollout.method=rag
check train_rag_same_bits same rag rag2
retrieves_once() {
    python "$work/rag/metrics.jsonl" <<'PYTHON'
import json, sys
steps = [json.loads(line) for line in open(sys.argv[1])]
assert len(steps) == 3 and all(s["searches"] == 1 and s["turns"] == 1 for s in steps), steps
PYTHON
}
check train_rag_retrieves_once retrieves_once

# --- self-search: any layout, twice the same, and killed and resumed the same ---
own() { # N FOLDER OPTIONS...
    local n=$1 folder=$2
    shift 2
    train "$n" "$folder" --set search.engine=self --set search.useful_template=simulate_self_demo \
        --set search.noisy_template=simulate_self_demo --set model.simulator=/nowhere "$@"
}
twice() { # NAME N OPTIONS...
    local name=$1 n=$2
    shift 2
    exits 0 own "$n" "$name" "$@" && exits 0 own "$n" "${name}_again" "$@" && same "$name" "${name}_again"
}
check self_on_1_rank_twice twice self1 1
check self_on_2_ranks_colocated_twice twice self2 2 --set groups.layout=colocated
check self_on_3_ranks_split_twice twice self3 3 --set groups.layout=split --set groups.simulators=0 --set groups.rollouts=2
check self_is_searched bash -c "grep -q '\"kind\":\"document\"' '$work/self1/episodes.jsonl'"
ZS_TEST_KILL=train:2 own 2 self2_killed --set groups.layout=colocated >"$work/out" 2>"$work/log"
check self_resumed exits 0 own 2 self2_killed --set groups.layout=colocated --resume
check self_resumed_to_the_bit same self2 self2_killed
check self_evaluates exits 0 evaluate 2 --set eval.engine=self --set search.useful_template=simulate_self_demo \
    --set search.noisy_template=simulate_self_demo

# --- the adaptive curriculum and the reward's terms ---
adaptive() { # FOLDER OPTIONS...
    local folder=$1
    shift
    train 2 "$folder" --set curriculum.kind=adaptive --set curriculum.end=1 --set curriculum.rate=0.3 --set curriculum.target=0.2 \
        --set reward.format=0.5 --set reward.turn_cost=0.01 --set reward.retrieval=0.25 "$@"
}
check adaptive_runs exits 0 adaptive adaptive
ZS_TEST_KILL=train:3 adaptive adaptive_killed >"$work/out" 2>"$work/log"
check adaptive_resumed exits 0 adaptive adaptive_killed --resume
check adaptive_resumed_to_the_bit same adaptive adaptive_killed
adds_up() {
    python "$work/adaptive/metrics.jsonl" "$work/adaptive_killed/metrics.jsonl" "$work/adaptive/episodes.jsonl" <<'PYTHON'
import json, math, sys
first, second, episodes = [[json.loads(line) for line in open(path)] for path in sys.argv[1:]]
noise = [s["noise_target"] for s in first]
assert noise == [s["noise_target"] for s in second] and noise[0] == 0 and noise[2] != noise[1] != 0, noise
mean = first[0]["reward_mean"]  # the controller, worked out from what was recorded
assert abs(noise[1] - min(1, max(0, 0.3 * math.tanh(2 * (mean - 0.2))))) < 1e-6, (noise, mean)
for one in first + second:
    terms = one["rewards"]
    assert abs(sum(terms.values()) - one["reward_mean"]) < 1e-6, one
    assert abs(terms["format"] - 0.5 * one["format_valid"]) < 1e-6 and abs(terms["turn_cost"] + 0.01 * one["turns"]) < 1e-6
assert any(s["format_valid"] > 0 for s in first)
for one in episodes:
    assert abs(sum(one["rewards"].values()) - one["reward"]) < 1e-6
PYTHON
}
check rewards_add_up_and_noise_follows adds_up
ahead() { adaptive "$@" --set rollout.staleness=1; } # the next step is played before the update, and is in the checkpoint
check adaptive_ahead_runs exits 0 ahead ahead
ZS_TEST_KILL=train:3 ahead ahead_killed >"$work/out" 2>"$work/log"
check adaptive_ahead_resumed exits 0 ahead ahead_killed --resume
check adaptive_ahead_resumed_to_the_bit same ahead ahead_killed

# --- ask: colours on a terminal only, two models on one question ---
ask() {
    "$ZS" ask configs/smoke.cfg --question "Who governs the birthplace of Binmul?" --set model.policy="$smoke/model" \
        --set data.corpus="$smoke/world/corpus_test.jsonl" "$@"
}
escapes() { grep -q "$(printf '\033')" "$work/out"; }
check ask_in_a_pipe exits 0 ask
check ask_in_a_pipe_has_no_colours bash -c "! grep -q $'\033' '$work/out'"
check ask_with_colours exits 0 ask --color always
check ask_with_colours_has_them escapes
on_a_terminal() { # the output of a command that runs on one
    python3 -c 'import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))' "$ZS" ask configs/smoke.cfg \
        --question "Who?" --set model.policy="$smoke/model" --set eval.engine=none </dev/null
}
check ask_on_a_terminal exits 0 env -u NO_COLOR TERM=xterm bash -c "$(declare -f on_a_terminal); ZS='$ZS' smoke='$smoke' on_a_terminal"
check ask_on_a_terminal_has_colours escapes
check ask_on_a_terminal_heeds_no_color exits 0 env NO_COLOR=1 TERM=xterm bash -c "$(declare -f on_a_terminal); ZS='$ZS' smoke='$smoke' on_a_terminal"
check no_color_has_none bash -c "! grep -q $'\033' '$work/out'"
check ask_compares exits 0 ask --compare "$work/rag/checkpoints/step-3.h5" --golden "Rush|Oslo"
compared() {
    [ "$(grep -c '^--- ' "$work/out")" = 2 ] && grep -q 'em cover_em *f1$' "$work/out" &&
        [ "$(tail -2 "$work/out" | awk '{print $1, NF}' | paste -sd' ')" = "$smoke/model 7 $work/rag/checkpoints/step-3.h5 7" ]
}
check ask_compares_with_scores compared
check ask_of_a_missing_model exits 1 ask --compare "$work/nowhere"
check ask_of_a_missing_model_is_said_once one_message nowhere
check ask_bad_color_is_refused exits 2 ask --color green

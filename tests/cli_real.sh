#!/usr/bin/env bash
# Real input, as a user brings it: a model of the Qwen2.5-0.5B shape (one layer), the published Qwen2 tokenizer, published
# questions and passages. Training with both kinds of engine, tuning, evaluation, checkpoints, conversion, torn files.
# The policy's one layer is written by hand, so that it searches, errs and answers: all that a trained policy does.
#   ZS: the program   ZS_MPIRUN: mpirun with its flags   SHARED: the shared folder
# shellcheck disable=SC2086
: "${ZS:?path of the binary}" "${ZS_MPIRUN:?the mpirun command}"
shared=${SHARED:-${ZS_SHARED:-../shared}}
here=$(cd "$(dirname "$0")/.." && pwd)
qa=$shared/qa
if [ ! -e "$qa/corpus.jsonl" ] || [ ! -e "$shared/tokenizers/qwen2/tokenizer.json" ]; then
    echo "skip real_input (no $qa, no $shared/tokenizers/qwen2)"
    exit 0
fi
if awk '/MemAvailable/ { exit !($2 < 8e6) }' /proc/meminfo 2>/dev/null; then
    echo "skip real_input (less than 8 GB of memory are free)"
    exit 0
fi
work=$(mktemp -d "$(dirname "$ZS")/real-XXXXXX") # not in /tmp, which may be memory: models are large
trap 'rm -rf "$work"' EXIT
cd "$here" || exit 1
export OMP_NUM_THREADS=1
failed=0
check() { # NAME COMMAND...: ok when the command succeeds
    local name=$1
    shift
    if "$@"; then echo "ok $name"; else
        echo "not ok $name"
        failed=1
        tail -5 "$work/log" 2>/dev/null | sed 's/^/# /'
    fi
}
exits() { # CODE COMMAND...
    local want=$1 got=0
    shift
    "$@" >"$work/out" 2>"$work/log" || got=$?
    [ "$got" = "$want" ] || { echo "exit code $got, expected $want" >>"$work/log"; false; }
}
python() { python3 - "$@" >"$work/log" 2>&1; }
one_message() { [ "$(grep -c "$1" "$work/log")" = 1 ]; }

# --- retrieval alone ---
recall() { # SET AT_3 AT_10
    "$ZS" index --corpus "$qa/corpus.jsonl" --index "$work/index" --recall "$qa/$1.jsonl" >"$work/out" 2>"$work/log" &&
        python3 -c 'import json, sys
recall = json.load(open(sys.argv[1]))["recall"]
assert recall["3"] >= float(sys.argv[2]) and recall["10"] >= float(sys.argv[3]), recall' "$work/out" "$2" "$3" 2>"$work/log"
}
check recall_hotpotqa recall hotpotqa 0.60 0.84
check recall_musique recall musique 0.38 0.54

# --- a model ---
check init exits 0 "$ZS" init --shape qwen2.5-0.5b --layers 1 --dtype bf16 --tokenizer "$shared/tokenizers/qwen2" --out "$work/base"
folder_is_whole() {
    python "$work/base" <<'PYTHON'
import json, os, sys
config = json.load(open(sys.argv[1] + "/config.json"))
assert config["model_type"] == "qwen2" and config["vocab_size"] == 151936, config
# <|im_end|> and <|endoftext|>; the vocabulary's plain "<s>" and "</s>" are words like others
assert config["eos_token_id"] == [151645, 151643], config
assert config.get("bos_token_id") in (None, 151643), config
assert os.path.getsize(sys.argv[1] + "/tokenizer.json") > 7e6
PYTHON
}
check init_folder_is_whole folder_is_whole

# Neuron k of the layer fires on token a[k] and writes token b[k]; nothing else is written, attention's part is zero. So the
# policy says "<search> Jeff Porcaro </search>" where a turn begins, and "Rush</answer>" after a line that ends with a tag.
write_policy() {
    for text in '\n<search> Jeff Porcaro </search>' '>\nRush</answer>' 'again.\n<search>'; do echo "{\"text\":\"$text\"}"; done |
        "$ZS" tokenize --tokenizer "$work/base" >"$work/chains" 2>"$work/log" || return 1
    cp -r "$work/base" "$work/policy"
    python "$work/policy/model.safetensors" "$work/chains" <<'PYTHON'
import json, mmap, struct, sys
HIDDEN, WIDE, FIRE, GAIN = 896, 4864, 10.0, 5.0
following = {}
for line in open(sys.argv[2]):
    ids = json.loads(line)["ids"]
    for a, b in zip(ids, ids[1:]):
        assert following.setdefault(a, b) == b, (a, b)
file = open(sys.argv[1], "r+b")
data = mmap.mmap(file.fileno(), 0)
size = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + size])
def place(name): return 8 + size + header[name]["data_offsets"][0]
def pack(values): return b"".join(struct.pack("<f", v)[2:] for v in values)  # bf16: the upper half
def row(name, i):
    begin = place(name) + 2 * HIDDEN * i
    return [struct.unpack("<f", b"\0\0" + data[begin + 2 * j:begin + 2 * j + 2])[0] for j in range(HIDDEN)]
def put(name, at, values):
    data[place(name) + 2 * at:place(name) + 2 * (at + len(values))] = pack(values)
mlp, embedding = "model.layers.0.mlp.", "model.embed_tokens.weight"
for name, count in (("model.layers.0.self_attn.o_proj.weight", HIDDEN * HIDDEN), (mlp + "down_proj.weight", HIDDEN * WIDE)):
    data[place(name):place(name) + 2 * count] = bytes(2 * count)
for k, (a, b) in enumerate(following.items()):
    x = row(embedding, a)
    norm = (sum(v * v for v in x) / HIDDEN) ** 0.5
    for name in ("gate_proj.weight", "up_proj.weight"):
        put(mlp + name, HIDDEN * k, [v / norm * FIRE / HIDDEN for v in x])
    for j, v in enumerate(row(embedding, b)):
        put(mlp + "down_proj.weight", WIDE * j + k, [v * GAIN / FIRE ** 2])
data.flush()
PYTHON
}
check policy_is_written write_policy
says() { "$ZS" generate --model "$work/policy" --prompt $'Who\n' --max-tokens 10 --temperature 0 2>"$work/log" | grep -qF '<search> Jeff Porcaro </search>'; }
check generate_says_what_was_written says
likely() { # the written continuation is near certain, the first words are not
    echo '{"text":"Who\n<search> Jeff Porcaro"}' | "$ZS" tokenize --tokenizer "$work/base" 2>"$work/log" |
        "$ZS" logprobs --model "$work/policy" 2>"$work/log" >"$work/out" &&
        python "$work/out" <<'PYTHON'
import json, sys
p = json.load(open(sys.argv[1]))["logprobs"]
assert p[1] < -5 and min(p[-7:]) > -0.1, p
PYTHON
}
check logprobs_agree likely

# --- the RL run ---
head -3 "$qa/nq.jsonl" >"$work/nq.jsonl"
head -3 "$qa/hotpotqa.jsonl" >"$work/hotpotqa.jsonl"
printf '\n\n<answer>\n\n' >"$work/last_turn.txt" # a template's final newline is dropped
cat >"$work/real.cfg" <<CONFIG
groups = { layout = "split"; simulators = 1; rollouts = 2; learners = 1; };
model = { policy = "$work/policy"; simulator = "$work/base"; };
data = { train = ["$work/nq.jsonl", "$work/hotpotqa.jsonl"]; eval = ["$work/hotpotqa.jsonl"];
         corpus = "$qa/corpus.jsonl"; corpus_index = "$work/index"; };
search = { top_k = 3; observation_tokens = 96; max_new_tokens = 12; max_length = 512; max_batch = 4; };
rollout = { questions = 2; samples = 2; max_turns = 2; response_tokens = 14; context_tokens = 640; max_batch = 4;
            last_turn_template = "$work/last_turn.txt"; };
learn = { steps = 2; micro_tokens = 640; };
checkpoint = { every = 0; keep = 1; };
CONFIG
train() { # RANKS FOLDER OPTIONS...
    local ranks=$1 folder=$2
    shift 2
    $ZS_MPIRUN -n "$ranks" "$ZS" train "$work/real.cfg" --set run.folder="$work/$folder" "$@"
}
episodes_are_sound() { # FOLDER ENGINE
    python "$work/$1/episodes.jsonl" "$work/$1/metrics.jsonl" "$2" <<'PYTHON'
import json, sys
episodes, steps = ([json.loads(line) for line in open(path, encoding="utf-8")] for path in sys.argv[1:3])
steps = [s for s in steps if "reward_mean" in s]
assert len(steps) == 2 and len(episodes) == 4 and [s["step"] for s in steps] == [1, 2], (len(steps), len(episodes))
assert all(s["log_prob_mismatch"] < 1e-3 for s in steps), steps
assert sum(s["searches"] for s in steps) > 0, steps
documents = answers = 0
for e in episodes:
    spans = e["spans"]
    assert spans[0]["kind"] == "prompt" and spans[1]["kind"] == "policy", spans
    prompt = spans[0]["text"]
    assert prompt.startswith("<|im_start|>system\n") and prompt.endswith("<|im_end|>\n<|im_start|>assistant\n"), prompt
    assert e["question"] in prompt, prompt
    assert e["searches"] == sum(s["kind"] == "document" for s in spans), e
    for before, span in zip(spans, spans[1:]):
        text = span["text"]
        if span["kind"] == "document":
            documents += 1
            assert before["kind"] == "policy" and before["text"].endswith("</search>"), before
            assert text.startswith("\n<information>") and text.endswith("</information>\n"), text
            assert text.count("<information>") == text.count("</information>") == 1, text
            if sys.argv[3] == "corpus":
                assert 'Doc 1: "' in text and "Porcaro" in text, text
        if before["text"].endswith("<answer>\n") and text == "Rush</answer>":
            answers += 1
            assert before["kind"] == "observation" and e["reward"] == float("Rush" in e["golden_answers"]), e
assert documents > 0 and answers > 0, episodes
PYTHON
}
check train_simulate_prompt exits 0 train 4 simulated --set search.engine=simulate_prompt
check train_simulate_prompt_episodes episodes_are_sound simulated simulate_prompt
check train_corpus exits 0 train 4 corpus --set search.engine=corpus --set learn.kl_coef=0 --set groups.learners=2 \
    --set eval.every=2 --set eval.questions=2 --set checkpoint.export=false
check train_corpus_episodes episodes_are_sound corpus corpus
check train_evaluates grep -q '"eval":{"engine":"corpus"' "$work/corpus/metrics.jsonl"
rm -rf "$work/corpus"

# --- checkpoints: the folder in them is the folder written; they resume on other ranks ---
same() { cmp "$work/$1/model.safetensors" "$work/$2/model.safetensors" >"$work/log" 2>&1; }
check convert_checkpoint exits 0 "$ZS" convert --from "$work/simulated/checkpoints/step-2.h5" --to "$work/converted"
check convert_checkpoint_same same converted simulated/model
rm -rf "$work/converted"
check convert_folder exits 0 "$ZS" convert --from "$work/base" --to "$work/base.h5"
check convert_folder_back exits 0 "$ZS" convert --from "$work/base.h5" --to "$work/converted" --dtype bf16
check convert_folder_same same converted base
rm -rf "$work/converted" "$work/base.h5"
check resume_on_3_ranks exits 0 train 3 simulated --resume --set search.engine=simulate_prompt --set groups.rollouts=1 --set learn.steps=3
check resume_says_from_where grep -q 'resumed from step 2' "$work/log"
check resume_goes_on grep -q '^{"step":3,' "$work/simulated/metrics.jsonl"
rm -rf "$work/simulated/checkpoints"

# --- evaluation on every set ---
sets=
for set in nq triviaqa popqa hotpotqa 2wikimultihopqa musique bamboogle; do sets="$sets${sets:+,}\"$qa/$set.jsonl\""; done
check eval_on_seven_sets exits 0 $ZS_MPIRUN -n 2 "$ZS" eval "$work/real.cfg" --set "data.eval=[$sets]" --set eval.questions=1 \
    --max-turns 1 --out "$work/eval.json" --predictions "$work/predictions.jsonl"
seven() {
    python "$work/eval.json" "$work/predictions.jsonl" <<'PYTHON'
import json, sys
sets = json.load(open(sys.argv[1]))["sets"]
assert len(sets) == 7 and all(s["n"] == 1 and s["searches"] == 1 and s["answered"] == 1 for s in sets), sets
assert [s["em"] for s in sets] == [0, 0, 0, 1, 0, 0, 0], sets  # the first question of HotpotQA is answered by Rush
assert sum(1 for line in open(sys.argv[2])) == 7
PYTHON
}
check eval_scores_are_right seven
ask() { "$ZS" ask "$work/real.cfg" --question "Which Canadian rock band released Counterparts?" --golden Rush >"$work/out" 2>"$work/log" &&
    grep -q 'Doc 1: "Jeff Porcaro"' "$work/out" && grep -q 'Rush</answer>' "$work/out" && grep -q 'f1 1.000' "$work/log"; }
check ask_shows_the_trace ask
check plan exits 0 "$ZS" plan "$work/real.cfg" --ranks 4
rm -rf "$work/simulated"

# --- tuning the simulator ---
head -8 "$qa/simtune_like.jsonl" >"$work/simtune.jsonl"
check collect_from_logs exits 0 "$ZS" collect --from "$work/simtune.jsonl" --set search.top_k=2 --set search.words=12 \
    --set collect.balance=false --set collect.held_out=0 --set run.folder="$work/collected"
check sft exits 0 $ZS_MPIRUN -n 2 "$ZS" sft --set model.policy="$work/base" --set "sft.data=[\"$work/collected/train.jsonl\"]" --set sft.steps=2 \
    --set sft.batch_tokens=384 --set sft.max_length=384 --set learn.micro_tokens=384 --set learn.learning_rate=1e-3 --set run.folder="$work/sft"
check sft_begins_at_chance python "$work/sft/metrics.jsonl" <<'PYTHON'
import json, math, sys
steps = [json.loads(line) for line in open(sys.argv[1])]
assert len(steps) == 2 and abs(steps[0]["loss"] - math.log(151936)) < 1 and steps[1]["loss"] < steps[0]["loss"], steps
PYTHON

# --- torn files: one line, exit code 1 ---
mkdir "$work/torn"
cp "$work"/policy/*.json "$work/torn"
head -c 1000000 "$work/policy/model.safetensors" >"$work/torn/model.safetensors"
check torn_weights exits 1 train 4 none --set model.policy="$work/torn" --set search.engine=corpus --set groups.learners=2
check torn_weights_are_named_once one_message 'torn/model.safetensors'
mv "$work/policy/model.safetensors" "$work/torn/model.safetensors"
head -c 1000000 "$work/policy/tokenizer.json" >"$work/torn/tokenizer.json"
check torn_tokenizer exits 1 train 4 none2 --set model.policy="$work/torn" --set search.engine=corpus --set groups.learners=2
check torn_tokenizer_is_named_once one_message 'torn/tokenizer.json'
exit $failed

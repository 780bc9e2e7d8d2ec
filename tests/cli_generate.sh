#!/bin/bash
# generate as a user calls it. What the engine computes is test_engine's part.
# shellcheck disable=SC2016
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
export OMP_NUM_THREADS=1
check() { # NAME CONDITION...
    local name=$1
    shift
    if "$@"; then echo "ok $name"; else echo "not ok $name"; fi
}

# A byte-level tokenizer of the 256 bytes and a few merges, trained here; a random model over it.
for i in 1 2 3 4 5 6 7 8; do
    echo '{"text":"the answer is the north, the search is the other: über alles grün und schön"}'
done >"$T/text.jsonl"
"$ZS" tokenize --train "$T/text.jsonl" --vocab 300 --special "<|endoftext|>,<|im_start|>,<|im_end|>" --out "$T/tokenizer.json" >/dev/null 2>"$T/err" || {
    echo "not ok tokenize --train"
    cat "$T/err"
    exit 1
}
"$ZS" init --shape tiny --tokenizer "$T/tokenizer.json" --seed 3 --out "$T/model" >/dev/null 2>"$T/err" || {
    echo "not ok init"
    cat "$T/err"
    exit 1
}
generate() { "$ZS" generate --model "$T/model" --prompt "the answer" "$@" >"$T/out" 2>"$T/err"; }
refused() { # EXIT WORD OPTIONS...: one message that has the word
    local code=$1 word=$2
    shift 2
    generate "$@"
    [ $? -eq "$code" ] && [ ! -s "$T/out" ] && [ "$(grep -c '^error' "$T/err")" -eq 1 ] && grep -q -- "$word" "$T/err"
}

generate --max-tokens 40 --seed 5 && cp "$T/out" "$T/first"
check "a completion is printed" [ "$(wc -c <"$T/first")" -gt 20 ]
generate --max-tokens 40 --seed 5
check "the same seed gives the same text" cmp -s "$T/out" "$T/first"
generate --max-tokens 40 --seed 6
check "another seed gives another text" [ "$(cmp -s "$T/out" "$T/first"; echo $?)" -eq 1 ]
generate --max-tokens 12 --seed 5
check "fewer tokens give its beginning" [ "$(head -c 8 "$T/out")" = "$(head -c 8 "$T/first")" ]
OMP_NUM_THREADS=2 generate --max-tokens 40 --seed 5
check "threads do not change the text" cmp -s "$T/out" "$T/first"
generate --max-tokens 30 --temperature 0 && cp "$T/out" "$T/greedy"
generate --max-tokens 30 --top-k 1 --seed 9
check "top-k 1 is greedy" cmp -s "$T/out" "$T/greedy"
generate --max-tokens 30 --top-p 1e-9 --seed 9
check "a tiny top-p is greedy" cmp -s "$T/out" "$T/greedy"
check "under mpirun the text comes once" [ "$($ZS_MPIRUN -n 2 "$ZS" generate --model "$T/model" --prompt "the answer" \
    --max-tokens 40 --seed 5 2>/dev/null | cmp - "$T/first" && echo same)" = same ]

# Many prompts: each line answered with its own keys, in order, as the first is by itself.
printf '%s\n' '{"prompt":"the answer","id":7}' '' '{"prompt":"the search is"}' '{"prompt":"über"}' >"$T/lines.jsonl"
many() { "$ZS" generate --model "$T/model" "$@" >"$T/out" 2>"$T/err"; }
many --prompt-file "$T/lines.jsonl" --max-tokens 30 --seed 5 --ignore-eos && cp "$T/out" "$T/many"
generate --max-tokens 30 --seed 5 --ignore-eos && cp "$T/out" "$T/one"
check "--prompt-file answers every line" python3 -c '
import json, sys
many = [json.loads(l) for l in open(sys.argv[1], encoding="utf-8")]
assert [m["prompt"] for m in many] == ["the answer", "the search is", "über"] and many[0]["id"] == 7
assert all(m["tokens"] == 30 and m["finish"] == "length" and -300 < m["log_prob"] < 0 for m in many)
one = open(sys.argv[2], encoding="utf-8", errors="replace", newline="").read()
assert many[0]["text"] + "\n" == one, (many[0]["text"], one)' "$T/many" "$T/one"
many --prompt-file - --max-tokens 30 --seed 5 --ignore-eos <"$T/lines.jsonl"
check "from stdin too" cmp -s "$T/out" "$T/many"
gzip -k "$T/lines.jsonl"
many --prompt-file "$T/lines.jsonl.gz" --max-tokens 30 --seed 5 --ignore-eos
check "and compressed" cmp -s "$T/out" "$T/many"
for i in $(seq 300); do echo '{"prompt":"the '$((i % 7))'"}'; done >"$T/long.jsonl"
many --prompt-file "$T/long.jsonl" --max-tokens 3 --temperature 0
check "hundreds of lines, equal prompts answered alike" python3 -c '
import json, sys
lines = [json.loads(l) for l in open(sys.argv[1])]
texts = {}
assert len(lines) == 300 and [l["prompt"] for l in lines] == ["the %d" % (i % 7) for i in range(1, 301)]
assert all(texts.setdefault(l["prompt"], l["text"]) == l["text"] for l in lines)' "$T/out"
printf '%s\n' '{"prompt":"the answer"}' '{"promt":"x"}' '{"prompt":"y"}' | many --prompt-file - --max-tokens 3
check "a bad line is named, those before it answered" [ $? -eq 1 -a "$(wc -l <"$T/out")" -eq 1 -a \
    "$(grep -c '^error: stdin:2: "prompt"' "$T/err")" -eq 1 ]
printf '%s\n' '{"prompt":""}' | many --prompt-file -
check "an empty prompt in a line" [ $? -eq 1 -a "$(grep -c '^error: stdin:1: the prompt is empty' "$T/err")" -eq 1 ]
many --prompt-file "$T/none.jsonl"
check "no such prompt file" [ $? -eq 1 -a "$(grep -c "^error.*none.jsonl" "$T/err")" -eq 1 ]
many --prompt-file - </dev/null
check "no line, no answer" [ $? -eq 0 -a ! -s "$T/out" ]

# The chat format of a folder is that of its template, written out here by hand.
cp -r "$T/model" "$T/chat"
printf '%s' "{{ '<|im_start|>system
You are a helpful assistant.<|im_end|>
' }}{{ '<|im_start|>assistant
' }}" >"$T/chat/chat_template.jinja"
wrapped() { # SYSTEM: the prompt as ChatML
    printf '<|im_start|>system\n%s<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n' "$1"
    echo . # keeps the last line end
}
as_chat() { # SYSTEM OPTIONS...: --chat gives what the prompt written out gives
    local prompt
    prompt=$(wrapped "$1")
    shift
    generate --model "$T/chat" --prompt "${prompt%.}" --max-tokens 12 --seed 2 --ignore-eos && cp "$T/out" "$T/plain"
    generate --model "$T/chat" --prompt Hi --max-tokens 12 --seed 2 --ignore-eos --chat "$@" && cmp -s "$T/out" "$T/plain"
}
check "--chat" as_chat "You are a helpful assistant."
check "--chat --system" as_chat "Be kind." --system "Be kind."
check "--chat with model.system" as_chat "Be kind." --set "model.system=Be kind."
check "a format that the folder does not tell" as_chat \
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant." --model "$T/model" --set model.chat=chatml
cp -r "$T/model" "$T/base" && echo '{}' >"$T/base/tokenizer_config.json"
check "--chat without a template" refused 2 "model.chat=" --model "$T/base" --chat
check "special tokens alone are a template" as_chat \
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant." --model "$T/model"
check "--system without --chat" refused 2 "--system" --system x
echo '{{ "[INST]" }}' >"$T/chat/chat_template.jinja"
check "an unknown template is told of" refused 2 "--chat" --model "$T/chat" --chat
check "once, with what it begins with" [ "$(grep -c '^warning.*chat_template.jinja.*INST' "$T/err")" -eq 1 ]
echo '{' >"$T/chat/tokenizer_config.json"
check "a broken tokenizer_config.json" refused 1 "tokenizer_config.json" --model "$T/chat"

# A turn that the policy closed by an end token goes on as a new turn of the assistant: many end tokens here, so
# that an untrained model closes its turns.
cp -r "$T/base" "$T/closing"
echo '{"eos_token_id":[40,70,80,90,100,110]}' >"$T/closing/generation_config.json"
echo "CORRECTED" >"$T/correction.txt"
opened() { # FORMAT: prints how often a correction stands in the text, and how often in a new turn
    "$ZS" ask --set model.policy="$T/closing" --set eval.engine=none --question "x" --temperature 1 --set seed=4 \
        --set rollout.prompt_template=prompt_demo --set rollout.correction_template="$T/correction.txt" \
        --set rollout.max_turns=3 --set rollout.response_tokens=300 --set model.chat="$1" >"$T/out" 2>"$T/err" || return
    echo "$(grep -ao CORRECTED "$T/out" | wc -l) $(grep -a -B1 '^CORRECTED' "$T/out" | grep -ac '^<|im_start|>assistant$')"
}
check "a closed turn is opened again" [ "$(opened chatml)" = "3 3" ]
check "without a chat format the text goes on" [ "$(opened none)" = "3 0" ]

generate --max-tokens 30 --temperature 0 --dtype bf16
check "bf16 weights" [ $? -eq 0 -a "$(wc -c <"$T/out")" -gt 10 ]
generate --max-tokens 30 --temperature 0 --dtype int8
check "int8 weights" [ $? -eq 0 -a "$(wc -c <"$T/out")" -gt 10 ]
cp "$T/out" "$T/int8"
generate --max-tokens 30 --temperature 0 --dtype int8
check "int8 weights again" cmp "$T/out" "$T/int8"
check "an unknown precision" refused 2 "f64: f32, bf16 or int8 is expected" --dtype f64
check "an empty prompt" refused 2 "empty" --prompt ""
check "an empty stop text" refused 2 "--stop" --stop ""
check "a prompt and a file" refused 2 "prompt-file" --prompt-file x
cp -r "$T/model" "$T/bare" && rm "$T/bare/tokenizer.json"
check "no tokenizer" refused 1 "tokenizer.json" --model "$T/bare"

# Stop at a byte string of the text itself: what is printed ends with the token that completes it.
stop=$(LC_ALL=C tr -d '\n' <"$T/first" | LC_ALL=C grep -ao '[a-z][a-z]' | tail -1)
generate --max-tokens 40 --seed 5 --stop "$stop"
check "--stop ends the text" [ "$(LC_ALL=C grep -ac -- "$stop" "$T/out")" -ge 1 -a "$(wc -c <"$T/out")" -le "$(wc -c <"$T/first")" ]

check "max-tokens 0" refused 2 max-tokens --max-tokens 0
check "a negative temperature" refused 2 temperature --temperature -1
check "top-p above 1" refused 2 top-p --top-p 1.5
check "an unknown option" refused 2 nosuch --nosuch 1
check "no such model" refused 1 "$T/none" --model "$T/none"
check "a prompt longer than the context" refused 1 tokens --prompt "$(printf 'xyz %.0s' {1..2000})"
check "a tokenizer beyond the model's vocabulary" bash -c '
    sed -E "s/\"vocab_size\": *[0-9]+/\"vocab_size\": 90/" "$1/model/config.json" >"$1/config.json"
    mkdir "$1/small" && cp "$1/model/"* "$1/small" && cp "$1/config.json" "$1/small"
    "$0" generate --model "$1/small" --prompt "the answer" >"$1/out" 2>"$1/err"
    [ $? -eq 1 ] && [ "$(grep -c "^error" "$1/err")" -eq 1 ]' "$ZS" "$T"

"$ZS" bench prefill,decode,drift --shape tiny --batch 2 --prompt 20 --new 6 --tokens 90 --cache-dtype bf16 --json \
    >"$T/out" 2>"$T/err"
check "bench takes keys and values in bf16" python3 -c '
import json, sys
lines = [json.loads(l) for l in open(sys.argv[1])]
assert [l["cache_bytes"] for l in lines if l["bench"] in ("prefill", "decode")] == [2, 2]
drift = [l for l in lines if l["bench"] == "drift"]
assert [(l["weight_bytes"], l["cache_bytes"]) for l in drift] == [(2, 4), (4, 2), (2, 2)]
assert all(l["tokens"] == 89 and 0 < l["mean_abs"] < l["max_abs"] < 0.1 and 0 < l["kl"] < 1e-3 for l in drift)
' "$T/out"
"$ZS" bench decode --cache-dtype f16 >"$T/out" 2>"$T/err"
check "bench of an unknown precision of the cache is wrong usage" [ $? -eq 2 ]

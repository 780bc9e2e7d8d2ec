#!/bin/bash
# logprobs as a user calls it: results, defaults, bad input. The golden numbers are test_golden_model's part.
# shellcheck disable=SC2016
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
check() { # NAME CONDITION...
    local name=$1
    shift
    if "$@"; then echo "ok $name"; else echo "not ok $name"; fi
}

"$ZS" init --shape tiny --seed 3 --out "$T/model" >/dev/null 2>"$T/err" || {
    echo "not ok init"
    cat "$T/err"
    exit 1
}
run() { "$ZS" logprobs --model "$T/model" "$@" >"$T/out" 2>"$T/err"; }
# Exit code 1, nothing on stdout, and one message that names the line.
refused() { # INPUT WORD
    printf '%s\n' "$1" | run
    [ $? -eq 1 ] && [ ! -s "$T/out" ] && [ "$(grep -c '^error' "$T/err")" -eq 1 ] && grep -q -- "$2" "$T/err"
}

printf '%s\n' '{"ids":[5,9,17]}' '' '{"ids":[]}' '{"ids":[511],"loss_mask":[0]}' | run
check "a line for each line" [ "$(wc -l <"$T/out")" -eq 3 ]
check "the first log-probability is 0" grep -q '^{"logprobs":\[0,-[0-9.]*,-[0-9.]*\],"entropy":\[[0-9.,]*\]}$' "$T/out"
check "an empty sequence" grep -q '^{"logprobs":\[\],"entropy":\[\]}$' "$T/out"
check "an untrained model is near uniform" awk -F'[][,]' 'NR == 1 {
    d = $3 + log(512); exit !(d < 0.5 && d > -0.5) }' "$T/out"

printf '%s\n' '{"ids":[5,9,17]}' | run --grads "$T/a"
printf '%s\n' '{"ids":[5,9,17],"loss_mask":[0,1,1]}' | run --grads "$T/b"
check "the default mask is all but the first" cmp -s "$T/a" "$T/b"
printf '%s\n' '{"ids":[5,9,17],"loss_mask":[false,true,true]}' | run --grads "$T/b"
check "a mask of booleans" cmp -s "$T/a" "$T/b"

# bf16 keeps eight bits of each weight: near, and not the same.
printf '%s\n' '{"ids":[5,9,17]}' | run && cp "$T/out" "$T/f32"
printf '%s\n' '{"ids":[5,9,17]}' | run --dtype bf16 && cp "$T/out" "$T/bf16"
check "weights in bf16" python3 -c '
import json, sys
a, b = (json.load(open(p))["logprobs"] for p in sys.argv[1:])
assert len(a) == len(b) == 3 and a != b and all(abs(x - y) < 0.05 for x, y in zip(a, b)), (a, b)' "$T/f32" "$T/bf16"
printf '%s\n' '{"ids":[5,9,17]}' | run --dtype bf16 --grads "$T/none.safetensors"
check "gradients of bf16 weights are refused" [ $? -eq 2 -a ! -e "$T/none.safetensors" ]
printf '%s\n' '{"ids":[5,9,17]}' | run --dtype int8 && cp "$T/out" "$T/int8"
check "weights in int8" python3 -c '
import json, sys
a, b = (json.load(open(p))["logprobs"] for p in sys.argv[1:])
assert len(a) == len(b) == 3 and a != b and all(abs(x - y) < 0.05 for x, y in zip(a, b)), (a, b)' "$T/f32" "$T/int8"
printf '%s\n' '{"ids":[5,9,17]}' | run --dtype int8 --grads "$T/none.safetensors"
check "gradients of int8 weights are refused" [ $? -eq 2 -a ! -e "$T/none.safetensors" ]
printf '%s\n' '{"ids":[5,9,17]}' | run --dtype f64
check "an unknown precision" [ $? -eq 2 -a "$(grep -c '^error.*f64' "$T/err")" -eq 1 ]

printf '{"ids":[5,9,17],"loss_mask":[0,0,0]}\n' | run --grads "$T/c"
check "no counted token is refused" [ $? -eq 1 -a ! -e "$T/c" ]
check "an id beyond the vocabulary" refused $'{"ids":[1]}\n{"ids":[1,512]}' '2: ids\[1\]'
check "a negative id" refused '{"ids":[-1]}' '1: ids\[0\]'
check "an id that is no integer" refused '{"ids":[1.5]}' '1: ids\[0\]'
check "ids missing" refused '{"id":[1]}' '1: "ids"'
check "a mask of another length" refused '{"ids":[1,2],"loss_mask":[1]}' '1: "loss_mask"'
check "a mask of other numbers" refused '{"ids":[1,2],"loss_mask":[0,2]}' 'loss_mask\[1\]'
check "a line that is no JSON" refused $'{"ids":[1]}\n\n{"ids":' '3'

"$ZS" logprobs </dev/null >"$T/out" 2>"$T/err"
check "no model is wrong usage" [ $? -eq 2 ]
"$ZS" logprobs --model "$T/none" </dev/null >"$T/out" 2>"$T/err"
check "a missing folder fails" [ $? -eq 1 ]
printf '{"ids":[1,2]}\n' | run --logits "$T/none/x"
check "an unwritable file fails" [ $? -eq 1 ]

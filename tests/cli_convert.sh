#!/bin/bash
# Commands init, convert and plan: folders and checkpoints both ways, to the bit.
: "${ZS:?path of the binary}" "${ZS_MPIRUN:?the mpirun command}" # unset, the checks would run other programs
work=$(mktemp -d /tmp/zs-cli-convert-XXXXXX)
trap 'rm -rf "$work"' EXIT
failed=0
check() { # NAME COMMAND...: ok when the command succeeds
    local name=$1
    shift
    if "$@" >"$work/out" 2>"$work/err"; then
        echo "ok $name"
    else
        echo "not ok $name"
        sed 's/^/# /' "$work/err" | head -5
        failed=1
    fi
}
refused() { # NAME STATUS WORDS COMMAND...: ok when it exits with the status and says the words once
    local name=$1 status=$2 words=$3 got
    shift 3
    "$@" >"$work/out" 2>"$work/err"
    got=$?
    if [ $got -eq "$status" ] && [ "$(grep -c -- "$words" "$work/err")" -eq 1 ]; then
        echo "ok $name"
    else
        echo "not ok $name (exit $got, expected $status and '$words' once)"
        sed 's/^/# /' "$work/err" | head -5
        failed=1
    fi
}
same_weights() { # every weight file of A is in B, byte for byte
    local file
    for file in "$1"/*.safetensors; do cmp "$file" "$2/$(basename "$file")" || return 1; done
}
small_files() { # more than one shard, none above about 1 MB, and an index
    [ "$(ls "$1"/model-*.safetensors | wc -l)" -gt 1 ] && [ -e "$1/model.safetensors.index.json" ] &&
        [ -z "$(find "$1" -name 'model-*.safetensors' -size +1100k)" ]
}

check init $ZS init --shape tiny --seed 3 --out "$work/a"
check init-again $ZS init --shape tiny --seed 3 --out "$work/b"
cp -r "$work/b" "$work/b0"
check init-same-seed same_weights "$work/a" "$work/b"
check init-other-seed $ZS init --shape tiny --seed 4 --out "$work/b"
check init-differs sh -c "! cmp -s '$work/a/model.safetensors' '$work/b/model.safetensors'"
refused init-shape 2 "qwen2.5-0.5b" $ZS init --shape nonsense --out "$work/x"
refused init-out 2 "out" $ZS init --shape tiny
refused init-dtype 2 "bf16" $ZS init --shape tiny --dtype f8 --out "$work/x"

check to-checkpoint $ZS convert --from "$work/a" --to "$work/a.h5"
check from-checkpoint $ZS convert --from "$work/a.h5" --to "$work/c"
check round-trip-f32 same_weights "$work/a" "$work/c"
check under-mpirun $ZS_MPIRUN -n 2 $ZS convert --from "$work/a.h5" --to "$work/d"
check under-mpirun-same same_weights "$work/a" "$work/d"
check checkpoint-same sh -c "$ZS convert --from '$work/d' --to '$work/d.h5' && cmp '$work/a.h5' '$work/d.h5'"
check large $ZS init --shape demo --vocab 1500 --out "$work/large"
check shards $ZS convert --from "$work/large" --to "$work/shards" --shard-mb 1
check shards-small small_files "$work/shards"
check unshard $ZS convert --from "$work/shards" --to "$work/whole"
check unshard-same same_weights "$work/large" "$work/whole"
check bf16 $ZS convert --from "$work/a" --to "$work/bf16" --dtype bf16
check bf16-to-checkpoint $ZS convert --from "$work/bf16" --to "$work/bf16.h5"
check bf16-back $ZS convert --from "$work/bf16.h5" --to "$work/bf16-again" --dtype bf16
check bf16-same same_weights "$work/bf16" "$work/bf16-again"

# Every pair of forms, in the formats that can hold what came before them: the same bytes come back.
comes_back() { # NAME FROM VIA...: FROM through each VIA in turn and back to a folder
    local name=$1 from=$2 at=$2 via
    shift 2
    for via in "$@"; do
        rm -rf "$work/${via%%:*}"
        $ZS convert --from "$at" --to "$work/${via%%:*}" --dtype "${via##*:}" || return 1
        at=$work/${via%%:*}
    done 2>"$work/log"
    cmp "$from/model.safetensors" "$at/model.safetensors" >>"$work/log" 2>&1
}
trip() {
    if comes_back "$@"; then echo "ok $1"; else
        echo "not ok $1"
        sed 's/^/# /' "$work/log" | tail -5
        failed=1
    fi
}
check f16 $ZS convert --from "$work/a" --to "$work/f16" --dtype f16
check bf16-as-stored sh -c "$ZS convert --from '$work/bf16' --to '$work/kept' && cmp '$work/bf16/model.safetensors' '$work/kept/model.safetensors'"
trip trip-f32-h5 "$work/a" t.h5:f32 t2.h5:f32 t:f32
trip trip-bf16-f32 "$work/bf16" t:f32 t2:bf16
trip trip-bf16-h5 "$work/bf16" t.h5:bf16 t:bf16
trip trip-bf16-f32-h5 "$work/bf16" t.h5:f32 t2.h5:bf16 t:bf16
trip trip-f16-f32 "$work/f16" t:f32 t2:f16
trip trip-f16-h5 "$work/f16" t.h5:f16 t2.h5:f32 t:f16
check in-place sh -c "cp -r '$work/a' '$work/in' && $ZS convert --from '$work/in' --to '$work/in' --dtype bf16 &&
    cmp '$work/in/model.safetensors' '$work/bf16/model.safetensors'"

# The files by another reader: header, order, dtype, and each value rounded to nearest even.
if command -v python3 >/dev/null; then
    cat >"$work/reader.py" <<'END'
import json, struct, sys
def read(path):
    raw = open(path, "rb").read()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}, "transformers wants format pt"
    data, at, out = raw[8 + length:], 0, {}
    assert (8 + length) % 8 == 0
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        count = 1
        for size in entry["shape"]: count *= size
        assert begin == at and end - begin == count * {"F32": 4, "BF16": 2, "F16": 2}[entry["dtype"]], name
        out[name], at = (entry["dtype"], entry["shape"], data[begin:end]), end
    assert at == len(data)
    return out
def to_bf16(bits): # nearest, ties to even
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16
f32, bf16, f16 = (read(sys.argv[i] + "/model.safetensors") for i in (1, 2, 3))
assert list(f32) == list(bf16) == list(f16) and len(f32) == 20
for name, (dtype, shape, data) in f32.items():
    assert dtype == "F32" and bf16[name][0] == "BF16" and f16[name][0] == "F16" and bf16[name][1] == shape
    bits = struct.unpack("<%dI" % (len(data) // 4), data)
    values = struct.unpack("<%df" % len(bits), data)
    assert struct.pack("<%dH" % len(bits), *map(to_bf16, bits)) == bf16[name][2], name
    assert struct.pack("<%de" % len(bits), *values) == f16[name][2], name
END
    check other-reader python3 "$work/reader.py" "$work/a" "$work/bf16" "$work/f16"
    # two numbers that F16 has no room for
    cp -r "$work/a" "$work/big"
    check patched python3 - "$work/big/model.safetensors" <<'END'
import json, struct, sys
raw = bytearray(open(sys.argv[1], "rb").read())
length = struct.unpack("<Q", raw[:8])[0]
at = 8 + length + json.loads(raw[8:8 + length])["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0]
raw[at:at + 12] = struct.pack("<3f", 1e5, 65519.0, -3e9)
open(sys.argv[1], "wb").write(raw)
END
    refused f16-overflow 0 "2 numbers are beyond .* in 1 of 20 tensors, the first of them model.layers.1.mlp.up_proj.weight" \
        $ZS convert --from "$work/big" --to "$work/big16" --dtype f16
    refused f16-overflow-h5 0 "2 numbers are beyond" $ZS convert --from "$work/big" --to "$work/big.h5" --dtype f16
    # numbers that are none: an error, and no line that is no JSON
    cp -r "$work/a" "$work/nan"
    check spoilt python3 - "$work/nan/model.safetensors" <<'END'
import json, struct, sys
raw = bytearray(open(sys.argv[1], "rb").read())
length = struct.unpack("<Q", raw[:8])[0]
at = 8 + length + json.loads(raw[8:8 + length])["model.norm.weight"]["data_offsets"][0]
raw[at:at + 4] = struct.pack("<f", float("nan"))
open(sys.argv[1], "wb").write(raw)
END
    refused nan-logprobs 1 "^error: sequence 0, token 0: .*NaN" \
        sh -c "printf '{\"ids\":[5]}\n{\"ids\":[1,2]}\n' | $ZS logprobs --model '$work/nan'"
    check nan-logprobs-none test ! -s "$work/out"
    refused nan-drift 1 "^error: .*NaN" $ZS bench drift --model "$work/nan"
else
    echo "skip other-reader"
fi
# layers that config.json does not ask for, as after a slip in it
cp -r "$work/a" "$work/shallow"
sed -i 's/"num_hidden_layers": [0-9]*/"num_hidden_layers": 1/' "$work/shallow/config.json"
refused layers-left-out 0 "^warning: .*shallow.* 1 layers; model.layers.1[.]" \
    sh -c "echo '{\"ids\":[1,2]}' | $ZS logprobs --model '$work/shallow'"

# Value models.
check value-head $ZS init --from "$work/bf16" --value-head --out "$work/value"
check value-head-named grep -q LlamaForTokenClassification "$work/value/config.json"
trip value-trip "$work/value" v.h5:bf16 v:bf16 v2:f32 v3.h5:bf16 v3:bf16
check value-head-shape $ZS init --shape tiny --value-head --seed 3 --out "$work/value2"
check value-same-body sh -c "$ZS init --from '$work/a' --value-head --out '$work/value3' &&
    cmp '$work/value2/model.safetensors' '$work/value3/model.safetensors'"
refused value-no-logits 1 "value model" sh -c "echo '{\"ids\":[1,2]}' | $ZS logprobs --model '$work/value'"
refused value-twice 2 "value model already" $ZS init --from "$work/value" --value-head --out "$work/x"
refused value-in-place 2 "would be lost" $ZS init --from "$work/a" --value-head --out "$work/../$(basename "$work")/a"
check value-in-place-refused same_weights "$work/a" "$work/b0"
check hdf5-is-a-checkpoint sh -c "$ZS convert --from '$work/a' --to '$work/y.hdf5' && cmp '$work/a.h5' '$work/y.hdf5'"
refused from-alone 2 "value-head" $ZS init --from "$work/a" --out "$work/x"

# What goes wrong half-way leaves what stood there.
stands() { # NAME WORDS TARGET COMMAND...: exit 1, the words once, and TARGET as before, nothing beside it
    local name=$1 words=$2 target=$3 before after beside
    shift 3
    before=$(find "$target" -type f -exec md5sum {} + | sort) beside=$(ls "$work")
    refused "$name" 1 "$words" "$@"
    after=$(find "$target" -type f -exec md5sum {} + | sort)
    if [ "$before" = "$after" ] && [ "$beside" = "$(ls "$work")" ]; then echo "ok $name-stands"; else
        echo "not ok $name-stands"
        failed=1
    fi
}
cp "$work/a.h5" "$work/flipped.h5"
printf '\125' | dd of="$work/flipped.h5" bs=1 seek=100000 conv=notrunc status=none
stands flipped "flipped.h5.*CRC" "$work/bf16" $ZS convert --from "$work/flipped.h5" --to "$work/bf16"
stands flipped-h5 "flipped.h5.*CRC" "$work/bf16.h5" $ZS convert --from "$work/flipped.h5" --to "$work/bf16.h5"
# the limit must leave Open MPI its own segments
check wide $ZS init --shape demo --layers 1 --vocab 60000 --dtype bf16 --out "$work/wide"
stands disk-full "model.safetensors.*not written" "$work/a" \
    bash -c "ulimit -f 20000; exec $ZS convert --from '$work/wide' --to '$work/a' --dtype f32"
stands disk-full-shards "model-00001.*not written" "$work/a" \
    bash -c "ulimit -f 20000; exec $ZS convert --from '$work/wide' --to '$work/a' --dtype f32 --shard-mb 1"
stands disk-full-h5 "no room for" "$work/a.h5" \
    bash -c "ulimit -f 20000; exec $ZS convert --from '$work/wide' --to '$work/a.h5' --dtype f32"

refused convert-missing 1 "nowhere" $ZS convert --from "$work/nowhere" --to "$work/x"
refused convert-missing-mpi 1 "nowhere" $ZS_MPIRUN -n 2 $ZS convert --from "$work/nowhere" --to "$work/x"
head -c 3000 "$work/a.h5" >"$work/torn.h5"
refused convert-torn 1 "torn.h5" $ZS convert --from "$work/torn.h5" --to "$work/x"
refused convert-usage 2 "for folders" $ZS convert --from "$work/a" --to "$work/x.h5" --shard-mb 3
ln -sf a.h5 "$work/also-a.h5"
refused convert-onto-itself 2 "would be lost" $ZS convert --from "$work/a.h5" --to "$work/../${work##*/}/a.h5" --dtype bf16
refused convert-onto-its-link 2 "would be lost" $ZS convert --from "$work/a.h5" --to "$work/also-a.h5"
refused convert-carry 2 "carry" $ZS convert --from "$work/a.h5" --to "$work/x" --carry "$work/nowhere"
refused convert-dtype 2 "f16" $ZS convert --from "$work/a" --to "$work/x" --dtype q4
head -c 5000 "$work/a/model.safetensors" >"$work/b/model.safetensors"
refused convert-torn-folder 1 "model.safetensors" $ZS convert --from "$work/b" --to "$work/x"

if [ -d "$SHARED/golden/models" ]; then
    golden=$SHARED/golden/models/llama3-tiny
    check golden-to-checkpoint $ZS convert --from "$golden" --to "$work/g.h5"
    check golden-back $ZS convert --from "$work/g.h5" --to "$work/g"
    check golden-logprobs sh -c "
        echo '{\"ids\":[1,5,9,17,30]}' >'$work/ids'
        $ZS logprobs --model '$golden' <'$work/ids' >'$work/before' &&
        $ZS logprobs --model '$work/g' <'$work/ids' >'$work/after' && cmp '$work/before' '$work/after'"
    check golden-bf16 $ZS convert --from "$SHARED/golden/models/qwen2-tiny-bf16-sharded" --to "$work/gb.h5"
    check golden-bf16-back $ZS convert --from "$work/gb.h5" --to "$work/gb" --shard-mb 1
    check golden-bf16-logprobs sh -c "
        echo '{\"ids\":[1,5,9,17,30]}' >'$work/ids'
        $ZS logprobs --model '$SHARED/golden/models/qwen2-tiny-bf16-sharded' <'$work/ids' >'$work/before' &&
        $ZS logprobs --model '$work/gb' <'$work/ids' >'$work/after' && cmp '$work/before' '$work/after'"
    # more rows than the tokenizer has entries, as most published models: nothing minds, and they stay
    stories=$SHARED/models/stories260k
    check padded $ZS init --shape tiny --vocab 700 --tokenizer "$stories" --out "$work/padded"
    check padded-convert $ZS convert --from "$work/padded" --to "$work/padded16" --dtype bf16
    check padded-generate $ZS generate --model "$work/padded16" --prompt "Once upon" --max-tokens 5
    check padded-rows grep -q '"vocab_size": 700' "$work/padded16/config.json"
    check tokenizer-folder $ZS init --shape qwen2.5-0.5b --layers 1 --dtype bf16 \
        --tokenizer "$SHARED/tokenizers/qwen2" --out "$work/q"
    check tokenizer-carried cmp "$SHARED/tokenizers/qwen2/tokenizer.json" "$work/q/tokenizer.json"
    check tokenizer-end sh -c "grep -q 151645 '$work/q/config.json'"
else
    echo "skip golden"
fi

check plan-shape $ZS plan --shape qwen2.5-0.5b --ranks 16
check plan-names sh -c "$ZS plan --shape qwen2.5-0.5b | grep -q optimizer"
check plan-split sh -c "$ZS plan --shape qwen2.5-3b --ranks 64 --set 'groups.layout=\"split\"' |
    awk '/^proposed/ { exit !(\$2 + \$3 + \$4 == 64 && \$2 > 0 && \$3 > 0 && \$4 > 0) }'"
# Qwen2.5-0.5B has 494,032,768 parameters: 1.84 GiB of weights, twice that of optimizer state for one learner
check plan-memory sh -c "$ZS plan --shape qwen2.5-0.5b | awk '/^learner/ { exit !(\$3 == 1.84 && \$5 == 3.68) }'"
check plan-cache-dtype sh -c "for d in f32 bf16; do $ZS plan --shape qwen2.5-3b --ranks 16 --set rollout.cache_dtype=\$d; done |
    awk '/^rollout/ {kv[n++] = \$8} END {exit !(kv[1] < 0.6 * kv[0])}'"
refused plan-model 2 "model.policy" $ZS plan
exit $failed

#!/usr/bin/env bash
# The RL run as a user meets it: on 1 to 4 ranks, killed and resumed to the same bits, stopped by a signal, resumed on another
# layout, from a damaged checkpoint, and with settings that cannot work. Needs build/smoke, which `make` prepares.
#   ZS: the program   ZS_MPIRUN: mpirun with its flags
. "$(dirname "$0")/smoke_checks.sh"

# Questions that the smoke model answers right now and then: any made-up name counts.
names=$(cat "$smoke"/world/corpus_*.jsonl | tr -cs 'A-Za-z' '\n' | grep -E '^[A-Z][a-z]{4,}$' | sort -u | sed 's/.*/"&"/' | paste -sd, -)
for i in 1 2 3 4 5 6 7 8; do
    echo "{\"id\": \"$i\", \"question\": \"Who governs the birthplace of Binmul$i?\", \"golden_answers\": [$names]}"
done >"$work/qa.jsonl"

run() { # N COMMAND FOLDER OPTIONS...: a command on N ranks with the smoke settings
    local n=$1 command=$2 folder=$3
    shift 3
    $ZS_MPIRUN -n "$n" "$ZS" $command configs/smoke.cfg --set run.folder="$folder" --set run.replace=false \
        --set model.policy="$smoke/model" --set model.simulator="$smoke/model" --set checkpoint.every=1 \
        --set "data.train=[\"$work/qa.jsonl\"]" --set "data.eval=[\"$smoke/world/qa_dev.jsonl\"]" \
        --set data.corpus="$smoke/world/corpus_dev.jsonl" --set eval.every=0 --set learn.steps=4 \
        --set learn.kl_coef=0.02 --set learn.learning_rate=1e-3 --set reward.metric=f1 "$@"
}
tune() { # N FOLDER OPTIONS...: the same for sft
    local n=$1 folder=$2
    shift 2
    $ZS_MPIRUN -n "$n" "$ZS" sft --set run.folder="$folder" --set model.policy="$smoke/model" \
        --set "sft.data=[\"$smoke/world/simulator.jsonl\"]" --set sft.steps=6 --set sft.batch_tokens=1024 --set checkpoint.every=2 "$@"
}
same() { cmp "$work/$1/model/model.safetensors" "$work/$2/model/model.safetensors"; }
steps() { grep -c '"reward_mean"' "$work/$1/metrics.jsonl"; }
one_message() { [ "$(grep -c "$1" "$work/log")" = 1 ]; }

for n in 1 2 3 4; do check "train_on_${n}_ranks" exits 0 run $n train "$work/n$n"; done
check train_writes_all test -s "$work/n2/episodes.jsonl" -a -s "$work/n2/config.cfg" -a -s "$work/n2/model/tokenizer.json"
check train_writes_timers test "$(head -c 4 "$work/n2/timers.h5" | tail -c 3)" = HDF
check train_moves_the_weights bash -c "! cmp -s '$work/n2/model/model.safetensors' '$smoke/model/model.safetensors'"
check train_records_each_step test "$(steps n2)" = 4

check recorded_log_probs_are_the_learners awk -F'"log_prob_mismatch":' 'NF > 1 {split($2, a, ","); n++; if (a[1] > 1e-4) bad = 1} END {exit !(n == 4 && !bad)}' \
    "$work/n3/metrics.jsonl"

exits 0 run 2 train "$work/again"
check same_seed_same_bits same n2 again

ZS_TEST_KILL=train:3 run 2 train "$work/killed" >"$work/out" 2>"$work/log"
check killed_in_a_step test "$(steps killed)" = 2
check killed_then_resumed exits 0 run 2 train "$work/killed" --resume
check killed_then_resumed_to_the_bit same n2 killed
check killed_then_resumed_metrics test "$(steps killed)" = 4

ZS_TEST_KILL=checkpoint:3 run 2 train "$work/torn" >"$work/out" 2>"$work/log"
check killed_in_a_checkpoint test ! -e "$work/torn/checkpoints/step-3.h5" -a -e "$work/torn/checkpoints/step-2.h5"
check killed_in_a_checkpoint_then_resumed exits 0 run 2 train "$work/torn" --resume
check killed_in_a_checkpoint_to_the_bit same n2 torn

# one array of step 3 is in its file, the next is being written while step 4 goes on
ZS_TEST_KILL=writing:8 run 2 train "$work/half" >"$work/out" 2>"$work/log"
check killed_while_writing test ! -e "$work/half/checkpoints/step-3.h5" -a -e "$work/half/checkpoints/step-2.h5" -a -e "$work/half/checkpoints/step-3.h5.tmp"
check killed_while_writing_then_resumed exits 0 run 2 train "$work/half" --resume
check killed_while_writing_to_the_bit same n2 half
check killed_while_writing_leaves_no_half test ! -e "$work/half/checkpoints/step-3.h5.tmp"
check synchronous_checkpoints exits 0 run 2 train "$work/sync" --set checkpoint.background=false
check synchronous_checkpoints_are_the_same cmp "$work/n2/model/model.safetensors" "$work/sync/model/model.safetensors"

cp -r "$work/n2" "$work/damaged"
truncate -s -1000 "$work/damaged/checkpoints/step-4.h5"
rm -rf "$work/damaged/model"
check damaged_checkpoint_resumes_from_the_one_before exits 0 run 2 train "$work/damaged" --resume
check damaged_checkpoint_is_named one_message 'step-4.h5.*trying the one before'
check damaged_checkpoint_to_the_bit same n2 damaged

for n in 1 3; do
    cp -r "$work/n2" "$work/moved$n"
    rm -rf "$work/moved$n/model"
    check "resume_on_${n}_ranks" exits 0 run $n train "$work/moved$n" --resume
    check "resume_on_${n}_ranks_has_the_weights" same n2 "moved$n"
done

cp -r "$work/n2" "$work/reseeded"
check changed_settings_resume exits 0 run 2 train "$work/reseeded" --resume --set seed=77 --set learn.steps=5 --set rollout.dtype=bf16
check changed_settings_are_named one_message 'changed since the checkpoint: seed = 1 -> 77$'
check changed_settings_are_named_with_their_group one_message 'changed since the checkpoint: rollout.dtype = "f32" -> "bf16"$'
check unchanged_settings_are_not_named test "$(grep -c 'changed since' "$work/log")" -eq 4 # run.folder, learn.steps too

run 2 train "$work/signal" --set learn.steps=100000 >"$work/out" 2>"$work/log" &
pid=$!
for _ in $(seq 4000); do # wait for its first checkpoint, however slow the machine is
    if compgen -G "$work/signal/checkpoints/step-*.h5" >/dev/null || ! kill -0 $pid 2>/dev/null; then break; fi
    sleep 0.2
done
pkill -TERM -f "^$ZS train.*$work/signal" # the ranks, not mpirun, which would end them by force
wait $pid
code=$?
check signal_stops_with_75 test $code = 75
check signal_leaves_a_checkpoint compgen -G "$work/signal/checkpoints/step-*.h5" >/dev/null

check folder_in_use_is_refused exits 2 run 2 train "$work/n2"
check folder_in_use_is_said_once one_message 'holds a run at step 4'
check wrong_world_is_refused exits 2 run 2 train "$work/w" --set groups.layout=split --set groups.rollouts=3
check wrong_world_is_said_once one_message 'groups'
check missing_model_is_refused exits 1 run 2 train "$work/m" --set model.policy="$work/nowhere"
check missing_model_is_said_once one_message 'nowhere'
# A weight that is no number: each update is skipped, and three in a row end the run instead of exporting it.
cp -r "$smoke/model" "$work/damaged_model"
python3 - "$work/damaged_model/model.safetensors" <<'EOF'
import json, struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
length = struct.unpack("<Q", data[:8])[0]
at = 8 + length + json.loads(data[8:8 + length])["model.norm.weight"]["data_offsets"][0]
data[at:at + 4] = struct.pack("<f", float("nan"))
open(sys.argv[1], "wb").write(data)
EOF
check damaged_policy_ends_the_run exits 1 run 2 train "$work/nan" --set model.policy="$work/damaged_model"
check damaged_policy_is_said_once one_message 'damaged'
check damaged_policy_is_not_exported test ! -e "$work/nan/model"
check reward_kl_works exits 0 run 2 train "$work/klr" --set learn.kl_in=reward --set learn.steps=2
check minibatches_and_epochs_work exits 0 run 2 train "$work/mb" --set learn.epochs=2 --set learn.minibatches=2 --set learn.steps=2
check unmasked_documents_work exits 0 run 2 train "$work/um" --set learn.mask_documents=false --set learn.steps=2
check pods_work exits 0 run 4 train "$work/pods" --set groups.layout=split --set groups.pods=2 --set groups.simulators=0 \
    --set groups.rollouts=1 --set groups.learners=1 --set search.engine=none --set learn.steps=2

check sft_runs exits 0 tune 2 "$work/s"
ZS_TEST_KILL=sft:5 tune 2 "$work/sk" >"$work/out" 2>"$work/log"
check sft_killed_then_resumed exits 0 tune 2 "$work/sk" --resume
check sft_killed_then_resumed_to_the_bit same s sk
check sft_lowers_the_loss bash -c "head -1 '$work/s/metrics.jsonl' >'$work/a'; awk -F'[:,]' 'NR == 1 {a = \$4} {b = \$4} END {exit !(b < a)}' '$work/s/metrics.jsonl'"
printf '{"prompt": "a", "completion": "b"}\n{"prompt": 3}\n' >"$work/bad.jsonl"
check sft_bad_line_is_refused exits 1 tune 2 "$work/b" --set "sft.data=[\"$work/bad.jsonl\"]"
check sft_bad_line_is_named_once one_message 'bad.jsonl:2'
check eval_runs exits 0 $ZS_MPIRUN -n 2 "$ZS" eval configs/smoke.cfg --set model.policy="$work/n2/model" \
    --set "data.eval=[\"$smoke/world/qa_test.jsonl\"]" --set data.corpus="$smoke/world/corpus_test.jsonl" \
    --set eval.questions=0 --out "$work/eval.json" --predictions "$work/predictions.jsonl"
check eval_writes_json_and_hdf5 test -s "$work/eval.json" -a "$(head -c 4 "$work/eval.h5" | tail -c 3)" = HDF
check eval_writes_each_prediction test "$(wc -l <"$work/predictions.jsonl")" = "$(wc -l <"$smoke/world/qa_test.jsonl")"
check eval_of_a_simulator exits 0 $ZS_MPIRUN -n 3 "$ZS" eval configs/smoke.cfg --set model.policy="$work/n2/model" \
    --set model.simulator="$smoke/model" --set "data.eval=[\"$smoke/world/qa_test.jsonl\"]" --set eval.engine=simulate_sft
check ask_runs exits 0 "$ZS" ask configs/smoke.cfg --question "Who governs the birthplace of Binmul?" \
    --set model.policy="$work/n2/model" --set data.corpus="$smoke/world/corpus_test.jsonl"

#!/usr/bin/env bash
# What loading a model costs, as the kernel counts it: frozen models stand in memory once a node whatever the number of
# ranks; who reads is as asked; a simulator writes the same from shared memory; a torn folder is one message and no hang.
#   ZS: the program   ZS_MPIRUN: mpirun with its flags
: "${ZS:?path of the binary}" "${ZS_MPIRUN:?the mpirun command}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1
smoke=$(dirname "$ZS")/smoke
if [ ! -e "$smoke/model/model.safetensors" ]; then "$(dirname "$0")/../jobs/smoke.sh" "$(dirname "$ZS")" >/dev/null 2>&1; fi

check() { # NAME COMMAND...: ok when the command succeeds
    local name=$1
    shift
    if "$@"; then echo "ok $name"; else
        echo "not ok $name"
        tail -5 "$work/log" "$work/out" 2>/dev/null | sed 's/^/# /'
    fi
}
exits() { # CODE COMMAND...
    local want=$1 got=0
    shift
    timeout -k 10 600 "$@" >"$work/out" 2>"$work/log" || got=$?
    [ "$got" = "$want" ] || { echo "exit code $got, expected $want" >>"$work/log"; false; }
}
load() { # RANKS OPTIONS...
    local n=$1
    shift
    exits 0 $ZS_MPIRUN -n "$n" "$ZS" bench load --json "$@"
}
field() { grep -o "\"$1\":[^,}]*" "$work/out" | tail -1 | cut -d: -f2; } # of the last line: all ranks
about() { # NAME EXPECTED: within 3 % and 10 MiB (stacks, MPI's buffers, page tables, a plan's rounding)
    awk -v got="$(field "$1")" -v want="$2" 'BEGIN {d = got - want; d = d < 0 ? -d : d; exit !(got != "" && d <= 0.03 * want + 0.01)}'
}
counted=true
case $ZS in *asan*) counted=false ;; esac # shadow memory is counted with the rest
[ -r /proc/self/smaps_rollup ] || counted=false
costs() { # NAME EXPECTED-GIB
    if $counted; then check "$1" about sum_of_pss_gib "$2"; else echo "skip $1"; fi
}

"$ZS" init --shape demo --vocab 150000 --out "$work/model" --log-level error
"$ZS" convert --from "$work/model" --to "$work/bf16" --dtype bf16 --log-level error
size=$(awk -v bytes="$(stat -c %s "$work/model/model.safetensors")" 'BEGIN {print bytes / 2 ^ 30}')
times() { awk -v a="$size" -v b="$1" 'BEGIN {print a * b}'; }

for n in 1 2 3 4; do
    check "load_on_${n}_ranks" load $n --model "$work/model"
    costs "one_copy_on_${n}_ranks" "$size"
    check "read_once_by_${n}_ranks" about read_gib "$size"
done
planned() { # RANKS COLUMN: of the simulator's row
    "$ZS" plan --shape tiny --set model.simulator="$work/model" --ranks "$1" 2>/dev/null | awk -v c="$2" '/^loading/ {on = 1} on && /^simulator/ {print $c; exit}'
}
for n in 1 4; do # the plan rounds to 0.01
    load $n --model "$work/model"
    $counted && check "plan_says_the_memory_of_a_rank_of_$n" about mean_pss_gib "$(planned $n 6)"
    $counted && check "plan_says_the_memory_of_a_node_of_$n" about sum_of_pss_gib "$(planned $n 7)"
    check "plan_says_what_${n}_ranks_read" about read_gib "$(planned $n 9)"
done
load 4 --model "$work/model" --own
costs own_copies_on_4_ranks "$(times 4)"
check bf16_stays_bf16 load 4 --model "$work/bf16"
check bf16_is_half about model_gib "$(times 0.5)"
costs bf16_once_on_4_ranks "$(times 0.5)"
load 2 --model "$work/bf16" --dtype f32
costs bf16_widened_once_on_2_ranks "$size"

# int8: demo has 4 layers of 128 (336), 4 heads of 32, biases, tied: a row of a matrix takes its columns, rounded up to 64 (336: to
# 384), and 4 bytes; vectors are f32
rows=$((150000 + 4 * (3 * 128 + 128 + 2 * 336)))
int8=$((rows * (128 + 4) + 4 * 128 * (384 + 4) + 4 * (4 * (2 * 128 + 3 * 128) + 128)))
gib8=$(awk -v b=$int8 'BEGIN {print b / 2 ^ 30}')
for folder in model bf16; do
    for n in 1 4; do
        check "int8_on_${n}_ranks_of_$folder" load $n --model "$work/$folder" --dtype int8
        check "int8_size_on_${n}_ranks_of_$folder" about model_gib "$gib8"
        costs "int8_once_on_${n}_ranks_of_$folder" "$gib8"
    done
done
export ZS_TEST_NODES=2
for read in all node root; do
    check "int8_two_nodes_read_$read" load 4 --model "$work/bf16" --dtype int8 --read $read
    costs "int8_two_copies_on_two_nodes_read_$read" "$(awk -v a="$gib8" 'BEGIN {print 2 * a}')"
    check "int8_two_nodes_bytes_read_$read" about read_gib "$(times "$([ $read = root ] && echo 0.5 || echo 1)")"
done
for read in all node root; do
    check "two_nodes_read_$read" load 4 --model "$work/model" --read $read
    costs "two_copies_on_two_nodes_read_$read" "$(times 2)"
    check "two_nodes_bytes_read_$read" about read_gib "$(times "$([ $read = root ] && echo 1 || echo 2)")"
done
unset ZS_TEST_NODES
ZS_TEST_SHARE=fail:1 load 3 --model "$work/model"
costs copies_where_sharing_fails "$(times 3)"
check failed_sharing_is_said_once test "$(grep -c 'keeps a copy of its own' "$work/log")" = 1

# The same documents from a simulator in memory of its own and in shared memory, in f32 and bf16.
"$ZS" convert --from "$smoke/model" --to "$work/simulator" --dtype bf16 --log-level error
simulate() { # RANKS NAME OPTIONS...
    local n=$1 name=$2
    shift 2
    exits 0 $ZS_MPIRUN -n "$n" "$ZS" eval configs/smoke.cfg --set groups.layout=colocated --set model.policy="$smoke/model" \
        --set model.simulator="$work/simulator" --set "data.eval=[\"$smoke/world/qa_test.jsonl\"]" --set eval.engine=simulate_sft \
        --set eval.questions=8 --temperature 1 --predictions "$work/$name" "$@" && sort -o "$work/$name" "$work/$name"
}
for dtype in auto f32; do
    check "simulator_${dtype}_on_1_rank" simulate 1 "one_$dtype" --set model.simulator_dtype=$dtype
    check "simulator_${dtype}_on_4_ranks" simulate 4 "four_$dtype" --set model.simulator_dtype=$dtype
    check "simulator_${dtype}_same_episodes" cmp "$work/one_$dtype" "$work/four_$dtype"
done
check simulators_wrote_documents grep -q 'Doc 1' "$work/one_auto"
ZS_TEST_NODES=2 check simulator_on_two_nodes simulate 4 two_nodes --set model.read=root
check simulator_on_two_nodes_same cmp "$work/one_auto" "$work/two_nodes"

for read in all node root; do
    cp -r "$work/bf16" "$work/torn"
    truncate -s -1000 "$work/torn/model.safetensors"
    check "torn_folder_is_refused_read_$read" exits 1 $ZS_MPIRUN -n 4 "$ZS" bench load --model "$work/torn" --read $read
    check "torn_folder_is_said_once_read_$read" test "$(grep -c 'truncated' "$work/log")" = 1
    rm -r "$work/torn"
done
check missing_simulator_is_refused exits 1 $ZS_MPIRUN -n 3 "$ZS" eval configs/smoke.cfg --set model.policy="$smoke/model" \
    --set model.simulator="$work/nowhere" --set "data.eval=[\"$smoke/world/qa_test.jsonl\"]" --set eval.engine=simulate_sft
check missing_simulator_is_said_once test "$(grep -c 'model.simulator: .*nowhere' "$work/log")" = 1
check load_needs_a_folder exits 2 "$ZS" bench load
check load_knows_who_reads exits 2 "$ZS" bench load --model "$work/model" --read some
check load_knows_precisions exits 2 "$ZS" bench load --model "$work/model" --dtype f8

#!/bin/bash
# How the program speaks: help, one line for one fault, exit codes, data on stdout and words on stderr.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
check() { # name, condition's status
    if [ "$2" -eq 0 ]; then echo "ok $1"; else
        echo "not ok $1"; failed=1
        sed 's/^/# out: /' "$folder/out"; sed 's/^/# err: /' "$folder/err"
    fi
}
say() { # words of a command: fills out, err, code
    timeout -k 5 600 "$@" >"$folder/out" 2>"$folder/err" </dev/null
    code=$?
}
# Exit code 2, nothing on stdout, one line on stderr, with these words in it.
one_line() {
    [ "$code" -eq 2 ] && [ ! -s "$folder/out" ] && [ "$(wc -l <"$folder/err")" -eq 1 ] && grep -qF -- "$1" "$folder/err"
}

say "$ZS"
one_line "a command is expected"; check no_command $?
say "$ZS" serach
one_line "unknown command 'serach'"; check unknown_command $?
say "$ZS" doctor --jsn
one_line "unknown option --jsn"; check unknown_option $?
say "$ZS" doctor --json=yes
one_line "--json takes no value"; check switch_takes_no_value $?
say "$ZS" doctor --set
one_line "--set needs a value"; check option_needs_a_value $?
say "$ZS" doctor --log-level loud
one_line "--log-level loud"; check unknown_log_level $?
say "$ZS" doctor one.cfg two.cfg
one_line "one settings file is expected"; check one_settings_file $?
say "$ZS" doctor "$folder/absent.cfg"
one_line "$folder/absent.cfg: cannot be opened"; check absent_settings_file $?
say "$ZS" doctor --set learn.stpes=3
one_line "unknown key 'learn.stpes' (did you mean 'learn.steps'?)"; check unknown_key_in_set $?

printf 'seed = 1;\nlearn:\n{\n    learning_rat = 1e-5;\n};\n' >"$folder/typo.cfg"
say "$ZS" doctor "$folder/typo.cfg"
one_line "$folder/typo.cfg:4: unknown key 'learn.learning_rat' (did you mean 'learn.learning_rate'?)"
check typo_names_file_line_key $?
printf 'learn: {\n  steps = -4;\n};\n' >"$folder/range.cfg"
say "$ZS" doctor "$folder/range.cfg"
one_line "$folder/range.cfg:2: learn.steps: -4 is out of range; an integer from 0"; check range_names_file_line_key $?

say $ZS_MPIRUN -n 3 "$ZS" doctor "$folder/typo.cfg"
[ "$code" -eq 2 ] && [ "$(grep -c "unknown key 'learn.learning_rat'" "$folder/err")" -eq 1 ] && [ ! -s "$folder/out" ]
check one_message_for_three_ranks $?
say $ZS_MPIRUN -n 3 "$ZS" doctor --jsn
[ "$code" -eq 2 ] && [ "$(grep -c "unknown option --jsn" "$folder/err")" -eq 1 ]; check one_usage_message_for_three_ranks $?
say $ZS_MPIRUN -n 3 "$ZS" --help
[ "$code" -eq 0 ] && [ "$(grep -c '^usage:' "$folder/out")" -eq 1 ]; check one_help_for_three_ranks $?

# Rank 0 fails in a part of its own before one that needs all ranks: a word, and no wait for it.
say $ZS_MPIRUN -n 2 "$ZS" bench tokenize,allreduce --text "$folder/absent.txt" --set groups.deadline=20
[ "$code" -eq 1 ] && [ "$(grep -c "absent.txt" "$folder/err")" -eq 1 ] && ! grep -q ' waited ' "$folder/err"
check bench_fault_of_one_rank $?

say "$ZS" --help
[ "$code" -eq 0 ] && [ ! -s "$folder/err" ] && grep -q '^commands:' "$folder/out"; check help $?
commands=$(sed -nE '/^commands:/,/^$/s/^  ([a-z]+) .*/\1/p' "$folder/out")
[ -n "$commands" ]; check help_lists_commands $?
for command in $commands; do
    say "$ZS" "$command" --help
    [ "$code" -eq 0 ] && [ ! -s "$folder/err" ] && grep -q "^usage: zerosearch $command" "$folder/out"
    check "help_of_$command" $?
done
say "$ZS" --version
[ "$code" -eq 0 ] && grep -qE '^zerosearch [0-9]+\.[0-9]+\.[0-9]+$' "$folder/out"; check version $?

# The printed settings are a settings file that prints the same.
say "$ZS" doctor --show-config --set learn.steps=7 --set 'model.policy=a "b"'
cp "$folder/out" "$folder/first.cfg"
say "$ZS" doctor --show-config "$folder/first.cfg"
[ "$code" -eq 0 ] && cmp -s "$folder/out" "$folder/first.cfg" && grep -q 'steps = 7;' "$folder/out"
check show_config_reloads $?

say "$ZS" doctor --json
[ "$code" -eq 0 ] && [ "$(wc -l <"$folder/out")" -eq 1 ] &&
    python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); assert d["cores_of_rank_0"] >= 1 and "numa_nodes" in d and d["sgemm_gflops_one_core"] and d["read_gb_per_second"] > 0' "$folder/out"
check doctor_json $?
[ "$(wc -l <"$folder/err")" -eq 1 ] && grep -q "1 rank, .* thread" "$folder/err"; check threads_are_said_once $?
say env OMP_NUM_THREADS=1 "$ZS" doctor
[ "$code" -eq 0 ] && grep -q "1 thread each (OMP_NUM_THREADS)" "$folder/err"; check given_threads_are_kept $?
say $ZS_MPIRUN -n 2 "$ZS" doctor --json
[ "$code" -eq 0 ] && [ "$(wc -l <"$folder/out")" -eq 1 ] &&
    python3 -c 'import json,sys; assert len(json.load(open(sys.argv[1]))["ranks"]) == 2' "$folder/out"
check doctor_on_two_ranks $?

# Ranks and threads that do not fit the cores: one warning for the job, with what mends it; none where it is not wanted,
# and none of commands that run on rank 0. Each of these runs stops at its settings.
crowd=$((2 * $(nproc)))
warned() { # ranks, count of warnings expected, words, more of the environment...
    local ranks=$1 count=$2 words=$3 launch=
    shift 3
    [ "$ranks" = 1 ] || launch="$ZS_MPIRUN -n $ranks"
    say env -u ZS_BINDING -u OMP_NUM_THREADS OMP_PROC_BIND=false "$@" $launch "$ZS" eval
    [ "$(grep -c '^warning: ' "$folder/err")" -eq "$count" ] && grep -qF -- "$words" "$folder/err"
}
for ranks in 1 2 3; do
    warned $ranks 1 "$ranks rank$([ $ranks = 1 ] || echo s) with $crowd threads each on " OMP_NUM_THREADS=$crowd
    check "crowded_cores_are_said_once_by_$ranks" $?
done
warned 3 0 "error: " OMP_NUM_THREADS=$crowd ZS_BINDING=quiet; check crowded_cores_are_hushed $?
warned 1 0 "error: " OMP_NUM_THREADS=1; check one_thread_by_wish $?
warned 3 1 "and 2 more nodes: 1 rank with $crowd threads" OMP_NUM_THREADS=$crowd ZS_TEST_NODES=3; check crowded_nodes_are_counted $?
say env -u ZS_BINDING OMP_NUM_THREADS=$crowd "$ZS" tokenize --tokenizer "$folder/absent"
! grep -q '^warning: ' "$folder/err"; check one_rank_commands_do_not_warn $?
if [ "$(nproc)" -gt 1 ]; then
    # Pinned, unbound ranks are stacked on the first cores; and pinning takes no core from a rank, though the program
    # starts itself anew for its BLAS kernel.
    warned 2 1 "OMP_PROC_BIND pins threads of several ranks" OMP_PROC_BIND=close OMP_PLACES=cores; check stacked_ranks_are_said $?
    say env -u OMP_NUM_THREADS OMP_PROC_BIND=close OMP_PLACES=cores "$ZS" doctor --json
    python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); n=d["cores_of_rank_0"]; assert n > 1 and d["threads_of_rank_0"] == n and d["binding"] == "ranks and threads fit the cores"' "$folder/out"
    check pinning_leaves_all_cores $?
fi

# A site that asks all programs for a kernel without AVX-512 must not halve this one's rate, unless it is wished.
kernel_under() { env "$@" "$ZS" doctor --json 2>/dev/null | python3 -c 'import json,sys; print(json.load(sys.stdin)["blas_kernel"])'; }
if grep -q avx512vl /proc/cpuinfo && [ "$(kernel_under ZS_KEEP_CORETYPE=1 OPENBLAS_CORETYPE=Haswell)" = Haswell ]; then
    [ "$(kernel_under OPENBLAS_CORETYPE=Haswell)" = SkylakeX ]; check avx512_kernel_whatever_the_site_says $?
    say $ZS_MPIRUN -n 2 -x OPENBLAS_CORETYPE=Haswell "$ZS" doctor
    [ "$code" -eq 0 ] && [ "$(grep -c 'BLAS kernel SkylakeX instead of Haswell' "$folder/err")" -eq 1 ]
    check avx512_kernel_on_two_ranks $?
    [ "$(env ZS_KEEP_CORETYPE=1 OPENBLAS_CORETYPE=Haswell "$ZS" --blas-kernel)" = SkylakeX ]; check kernel_for_other_programs $?
else
    echo "skip avx512_kernel (no AVX-512, or no OpenBLAS that obeys OPENBLAS_CORETYPE)"
fi

if [ -e /dev/full ]; then
    "$ZS" doctor --show-config >/dev/full 2>"$folder/err" </dev/null
    code=$?
    [ "$code" -eq 1 ] && grep -q "stdout cannot be written" "$folder/err"; check full_disk_is_said $?
fi
exit $failed

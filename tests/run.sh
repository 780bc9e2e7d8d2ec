#!/bin/bash
# Runs the tests: run.sh BUILD [PATTERN ...] (shell patterns of names, such as 'test_golden*').
#   tests/test_*  one process each, several at a time
#   tests/mpi_*   under mpirun at the rank counts of their first line: /* ranks: 1 2 3 4 */
#   tests/cli_*.sh  shell checks, "ok NAME", "not ok NAME", "skip NAME"
# Each cmocka test and each shell check counts; a program that dies or hangs counts as a failure. The last line is
# "N passed, N failed" (and ", N skipped").
#   ZS_SHARED  folder of data that some tests need     ZS_TEST_TIMEOUT  seconds for one program (1200)
#   ZS_TEST_JOBS  single-process tests at once (2)
cd "$(dirname "$0")/.." || exit 1
build=${1:-build}
shift
[ $# -gt 0 ] || set -- '*'
limit=${ZS_TEST_TIMEOUT:-1200}
jobs=${ZS_TEST_JOBS:-2}
logs=$build/test-logs
rm -rf "$logs" "$build/test-summary"
mkdir -p "$logs"

absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
export ZS SHARED ZS_SHARED ZS_MPIRUN
ZS=$(absolute "$build/zerosearch")
ZS_SHARED=$(absolute "${ZS_SHARED:-../shared}")
SHARED=$ZS_SHARED
[ -z "$ZS_GOLDEN" ] || export GOLDEN="$ZS_GOLDEN"
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # tests share cores: waiting threads give theirs away
export ZS_BINDING=quiet OMP_PROC_BIND=false        # more ranks than cores, none bound: on purpose
# The program chooses the BLAS kernel itself; the test programs are told the same.
kernel=$([ -x "$ZS" ] && "$ZS" --blas-kernel)
[ -z "$kernel" ] || [ "$kernel" = unknown ] || TEST_KERNEL="OPENBLAS_CORETYPE=$kernel"
ZS_MPIRUN=mpirun
if mpirun --version 2>/dev/null | grep -q "Open MPI"; then
    ZS_MPIRUN="mpirun --oversubscribe --bind-to none"
    [ "$(id -u)" -ne 0 ] || ZS_MPIRUN="$ZS_MPIRUN --allow-run-as-root"
fi
# MPI libraries keep memory to the end; leaks are looked for in single processes only.
leaks=$(case $build in *asan*) echo "detect_leaks=1" ;; esac)

wanted() { # name, patterns
    local name=$1 pattern
    shift
    for pattern in "$@"; do
        case $name in $pattern) return 0 ;; esac
    done
    return 1
}

# Runs one program with its output in a log, its exit code and seconds beside it.
run() { # label, words of the command
    local label=$1 begin=$EPOCHREALTIME code
    shift
    timeout -k 10 "$limit" "$@" >"$logs/$label.log" 2>&1 </dev/null
    code=$?
    echo "$code $(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')" >"$logs/$label.code"
}

count() { grep -cE "$1" "$2"; }
names() { grep -aE "$1" "$2" | grep -av 'test(s)' | sed -E 's/^\[[^]]*\] //' | sort -u | wc -l; }

passed=0 failed=0 skipped=0
# Adds a program's tests to the sums and says one line about it; on failure its output.
judge() { # label
    local log=$logs/$1.log code seconds good bad left
    read -r code seconds <"$logs/$1.code"
    case $1 in
    cli_*)
        good=$(count '^ok ' "$log") bad=$(count '^not ok ' "$log") left=$(count '^skip ' "$log")
        ;;
    *)
        good=$(names '^\[ +OK +\]' "$log") bad=$(names '^\[ +FAILED +\]' "$log")
        left=$(names '^\[ +SKIPPED +\]' "$log")
        [ $((good + bad + left)) -gt 0 ] || left=$(count '^skip ' "$log")
        if [ $((good + bad + left)) -eq 0 ] && [ "$code" -eq 0 ]; then good=1; fi
        ;;
    esac
    # It died, hung or found nothing to do.
    if [ "$bad" -eq 0 ] && { [ "$code" -ne 0 ] || [ $((good + left)) -eq 0 ]; }; then bad=1; fi
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + left))
    local words="$good passed"
    [ "$left" -eq 0 ] || words="$words, $left skipped"
    if [ "$bad" -eq 0 ]; then
        echo "ok      $1: $words ($seconds s)"
    else
        local why="exit code $code"
        [ "$code" -ne 124 ] && [ "$code" -ne 137 ] || why="no end after $limit s"
        echo "FAILED  $1: $words, $bad failed, $why ($seconds s)"
        tail -n 60 "$log" | sed 's/^/        | /'
    fi
}

# Single processes, a few at a time; judged in order as they end.
labels=()
for source in tests/test_*.c; do
    label=$(basename "$source" .c)
    [ -f "$source" ] && wanted "$label" "$@" && labels+=("$label")
done
for label in "${labels[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    (
        [ -z "$leaks" ] || export ASAN_OPTIONS=$leaks LSAN_OPTIONS=suppressions=tests/lsan.supp
        run "$label" env $TEST_KERNEL "$build/tests/$label"
    ) &
done
wait
for label in "${labels[@]}"; do judge "$label"; done

# MPI, one at a time.
[ -z "$leaks" ] || export ASAN_OPTIONS=detect_leaks=0
for source in tests/mpi_*.c; do
    name=$(basename "$source" .c)
    [ -f "$source" ] && wanted "$name" "$@" || continue
    counts=$(sed -nE '1s/.*ranks:([ 0-9]+).*/\1/p' "$source")
    for ranks in ${counts:-1 2}; do
        label=$name.$ranks
        if [ "$ranks" -gt 1 ]; then
            OMP_NUM_THREADS=1 run "$label" env $TEST_KERNEL $ZS_MPIRUN -n "$ranks" "$build/tests/$name"
        else
            run "$label" env $TEST_KERNEL $ZS_MPIRUN -n 1 "$build/tests/$name"
        fi
        judge "$label"
    done
done

# The program from outside.
for script in tests/cli_*.sh; do
    label=$(basename "$script" .sh)
    [ -f "$script" ] && wanted "$label" "$@" || continue
    run "$label" bash "$script"
    judge "$label"
done

[ $((passed + failed + skipped)) -gt 0 ] || { echo "no test matches: $*"; failed=1; }
summary="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || summary="$summary, $skipped skipped"
echo "$summary" | tee "$build/test-summary"
[ "$failed" -eq 0 ]

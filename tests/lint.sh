#!/bin/bash
# The rules of the house by grep, then clang-tidy and cppcheck where they are installed. LINT_TOOLS=0 leaves the
# tools out. CHECK_FLAGS: the compiler flags.
cd "$(dirname "$0")/.." || exit 1
faults=0
fault() { faults=$((faults + 1)); echo "$1"; }

# Lines of the files that match, comments left out. Words: what is wrong, the pattern, the files.
ban() {
    local why=$1 pattern=$2 line
    shift 2
    while IFS= read -r line; do
        fault "$line   <- $why"
    done < <(grep -nE "$pattern" /dev/null "$@" 2>/dev/null | grep -vE ':[0-9]+: *(/\*|\*|//)')
}
outside() { find src -name '*.[ch]' | grep -vE "$1" | sort; }

ban "MPI_COMM_WORLD belongs to src/comm" '\bMPI_COMM_WORLD\b' $(outside '^src/comm/')
ban "kernels do not allocate" '\b(malloc|calloc|realloc|zs_alloc|zs_grow|ZS_NEW)\(' src/kernels/*.c
ban "memory comes from zs_alloc" '\b(malloc|calloc|realloc|strdup)\(' $(outside '^src/base/memory')
ban "random numbers come from zs_rng" '\b(rand|srand|random|drand48)\(' $(outside '^$')
ban "numbers are read by zs_parse_int, zs_parse_double" '\b(atoi|atol|atof)\(' $(outside '^$')
ban "use snprintf" '\b(sprintf|strcpy|strcat|gets)\(' $(outside '^$')
ban "MPI is called in src/comm and src/checkpoint only" '\bMPI_(Send|Recv|I?[Bb]cast|I?[Aa]ll|I?[Rr]educe|I?[Gg]ather|Isend|Irecv|Barrier|Wait|Test)' \
    $(outside '^src/(comm|checkpoint)/|^src/commands/bench_comm') # the bench measures plain MPI beside ours

# A lower folder never includes an upper one: level of each folder, and the folder of each header.
level() {
    case $1 in
    base) echo 0 ;; kernels) echo 1 ;; model | text | data) echo 2 ;;
    comm | engine | learn | search | checkpoint) echo 3 ;; roles) echo 4 ;; commands) echo 5 ;; *) echo 9 ;;
    esac
}
folder_of_header() {
    case $1 in
    error | memory | strings | log | trace | rng | config) echo base ;;
    kernels) echo kernels ;;
    model | hf) echo model ;;
    tokenizer | template | text | chat) echo text ;;
    qa | world | episode*) echo data ;;
    comm) echo comm ;; engine) echo engine ;; learn | presets | guard | score | loss | advantage | optimizer | packing | sft*) echo learn ;;
    search | corpus) echo search ;; checkpoint) echo checkpoint ;;
    command) echo commands ;;
    *) [ -n "$2" ] && echo "$2" ;; # a header not listed here counts as the includer's own
    esac
}
while IFS=: read -r file number text; do
    own=$(echo "$file" | cut -d/ -f2)
    if [[ $text =~ zerosearch/([a-z_0-9]+)\.h ]]; then
        other=$(folder_of_header "${BASH_REMATCH[1]}" "$own")
    elif [[ $text =~ \"(\.\./)?([a-z]+)/[a-z_0-9]+\.h ]]; then
        other=${BASH_REMATCH[2]}
    else
        continue
    fi
    [ "$(level "$other")" -le "$(level "$own")" ] || fault "$file:$number: src/$own includes src/$other, which is above it"
done < <(grep -nE '^#include "' src/*/*.[ch])

echo "rules: $faults faults"
[ "${LINT_TOOLS:-1}" != 0 ] || exit $((faults > 0))

if command -v cppcheck >/dev/null 2>&1; then
    cppcheck --quiet --std=c11 --language=c -Iinclude --enable=warning,performance,portability --inline-suppr \
        --suppress=uninitvar --suppress=legacyUninitvar --suppress=negativeIndex --suppress=invalidFunctionArg \
        --suppress=missingInclude --suppress=missingIncludeSystem --suppress=unknownMacro \
        --suppress=invalidPointerCast --suppress=seekOnAppendedFile -j 2 \
        --error-exitcode=1 src || faults=$((faults + 1))
else
    echo "cppcheck is not installed"
fi
# A file that was clean is looked at again when it, a header or the checks have changed.
tidy() {
    local file=$1 stamp=${BUILD:-build}/lint/$1.clean
    if [ -e "$stamp" ] && [ -z "$(find "$file" .clang-tidy include src -newer "$stamp" \( -path "$file" -o -name .clang-tidy -o -name '*.h' \))" ]; then
        return 0
    fi
    mkdir -p "$(dirname "$stamp")"
    clang-tidy --quiet --warnings-as-errors='*' "$file" -- $CHECK_FLAGS 2>/dev/null && touch "$stamp"
}
export -f tidy
if command -v clang-tidy >/dev/null 2>&1; then
    find src -name '*.c' | sort | BUILD=${BUILD:-build} xargs -P "$(nproc)" -I FILE bash -c 'tidy FILE' ||
        faults=$((faults + 1))
else
    echo "clang-tidy is not installed"
fi
exit $((faults > 0))

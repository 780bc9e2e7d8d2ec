# mpirun with what a workstation, a container or root needs; sourced by the launchers.
#   mpirun_n N COMMAND...   runs COMMAND on N ranks, one thread each (plain when N is 1)
mpirun_flags=(--oversubscribe --bind-to none)
if [ "$(id -u)" = 0 ]; then mpirun_flags+=(--allow-run-as-root); fi
mpirun_n() {
    local n=$1
    shift
    if [ "$n" = 1 ]; then
        "$@"
    else
        OMP_NUM_THREADS=1 mpirun "${mpirun_flags[@]}" -n "$n" "$@"
    fi
}

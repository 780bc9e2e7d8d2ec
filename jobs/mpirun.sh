# mpirun with what a workstation, a container or root needs; sourced by the launchers.
#   mpirun_n N COMMAND...   runs COMMAND on N ranks, one thread each (plain when N is 1)
# Nothing is bound, and more ranks than cores are wished: the program need not warn of either (ZS_BINDING), and threads
# must not be pinned, which would stack the ranks on the first cores (OMP_PROC_BIND).
mpirun_flags=(--oversubscribe --bind-to none)
if [ "$(id -u)" = 0 ]; then mpirun_flags+=(--allow-run-as-root); fi
mpirun_n() {
    local n=$1
    shift
    if [ "$n" = 1 ]; then
        "$@"
    else
        ZS_BINDING=quiet OMP_NUM_THREADS=1 OMP_PROC_BIND=false mpirun "${mpirun_flags[@]}" -n "$n" "$@"
    fi
}

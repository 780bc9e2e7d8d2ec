#!/bin/bash
# A job whose rank is lost or late ends by itself and says why: who waits, for whom, in which phase; a fault is
# printed once. Drives tests/mpi_deadline.c, which stands beside the binary.
program=$(dirname "$ZS")/tests/mpi_deadline
mpirun=${ZS_MPIRUN:-mpirun --allow-run-as-root --oversubscribe --bind-to none}
words=$(mktemp)
trap 'rm -f "$words"' EXIT

if [ ! -x "$program" ]; then
    echo "skip deadline (no $program)"
    exit 0
fi

failed=0
check() { # name, condition's status
    if [ "$2" -eq 0 ]; then echo "ok $1"; else echo "not ok $1"; failed=1; sed 's/^/# /' "$words"; fi
}
end() { # ranks, way of ending; fills $words and $code. The timeout is only for a hang.
    timeout -k 5 600 $mpirun -n "$1" "$program" "$2" >"$words" 2>&1
    code=$?
}
lines() { grep -c -- "$1" "$words"; }

end 4 expire
[ "$code" -ne 0 ] && [ "$code" -ne 124 ] && [ "$code" -ne 137 ]; check deadline_ends_the_job $?
grep -q "rank 1 (rollout) waited 0.5 s in phase generate, step 12, for documents from simulators {0}" "$words"
check deadline_rollout_says_who $?
grep -q "rank 2 (rollout) waited 0.5 s in phase generate, step 12, for documents from simulators {0}" "$words"
check deadline_every_rollout_says_who $?
[ "$(lines ' waited ')" -eq 2 ]; check deadline_one_line_a_rank $?

end 4 pod
[ "$code" -ne 0 ] && [ "$code" -ne 124 ] && [ "$code" -ne 137 ] && [ "$(lines ' waited ')" -eq 1 ]
check deadline_in_a_pod $?
grep -q "rank 3 (rollout) waited 0.5 s in phase generate, step 1, for documents from simulators {2}" "$words"
check deadline_names_ranks_of_the_world $?

end 4 stream
[ "$code" -ne 0 ] && [ "$code" -ne 124 ] && [ "$code" -ne 137 ] && [ "$(lines ' waited ')" -eq 1 ]
check deadline_stream_ends_the_job $?
[ "$(lines 'the live phase has ended')" -eq 1 ]; check deadline_stream_waits_for_the_living $?
grep -q "rank 3 (learner) waited 0.5 s in phase exchange, step 4, for episodes from rollout {1}" "$words"
check deadline_stream_says_who $?

end 4 weights
[ "$code" -ne 0 ] && [ "$code" -ne 124 ] && [ "$code" -ne 137 ]; check deadline_weights_end_the_job $?
grep -q "rank 1 (rollout) waited 0.5 s in phase broadcast, step 3, for weights from learner {3}" "$words"
check deadline_weights_say_who $?

end 3 memory
[ "$code" -ne 0 ] && [ "$code" -ne 124 ] && [ "$code" -ne 137 ] && [ "$(lines ' waited ')" -eq 2 ]
check deadline_sharing_ends_the_job $?
grep -q "rank 1 (rollout) waited 0.5 s in phase load, step 0, for all ranks, to share memory for the weights of DIR" "$words"
check deadline_sharing_says_what_for $?
end 3 filling
[ "$code" -ne 0 ] && [ "$code" -ne 124 ] && [ "$code" -ne 137 ] && [ "$(lines 'for all parts of the weights of DIR')" -eq 2 ]
check deadline_shared_memory_says_what_for $?

end 3 shared
[ "$code" -eq 2 ]; check abort_has_the_status $?
[ "$(lines 'the file is torn')" -eq 1 ] && grep -q "rank 1: the file is torn" "$words"
check abort_shared_fault_prints_once $?

end 3 local
[ "$code" -eq 2 ] && [ "$(lines 'the file is torn')" -eq 1 ]; check abort_local_fault_prints_once $?

end 3 killed
[ "$code" -ne 0 ] && [ "$code" -ne 124 ]; check killed_rank_ends_the_job $?

# One plain process, without mpirun.
timeout -k 5 600 "$program" >"$words" 2>&1
check plain_process_runs $?
exit $failed

# Whether the job is requeued, now that its processes have ended with code $rc.
# Slurm leaves this shell alone when it announces a preemption or the time limit, so that these lines are reached; on
# scancel it ends the shell too, so that a cancelled job stays cancelled.
trex_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
trex_job=${trex_job:-$SLURM_JOB_ID}
trex_restart=${SLURM_RESTART_COUNT:-0}
trex_state_file=${trex_states[${SLURM_ARRAY_TASK_ID:-0}]}
trex_canceled=${trex_rendezvous[${SLURM_ARRAY_TASK_ID:-0}]}-$trex_job-$trex_restart.canceled.json
trex_recorded=nothing            # the state that this very start of the job recorded
trex_starts=$((trex_restart + 1)) # starts of this job in a row without anything new on disk, this one included

trex_say() { echo "$(date '+%Y-%m-%d %H:%M:%S') job $trex_job: $*"; }

trex_read_state() { # the two lines that trex/records/job_state.py writes; a start may die before it has written any
    local job restart state starts
    { read -r job restart && read -r state starts; } 2>/dev/null < "$trex_state_file" || return
    [ "$job" = "$trex_job" ] || return
    [[ $restart =~ ^[0-9]{1,9}$ && $starts =~ ^[0-9]{1,9}$ ]] || return
    [ "$restart" = "$trex_restart" ] && trex_recorded=$state
    trex_starts=$((starts + trex_restart - restart))
}

trex_lost_nodes() { # nodes of this job that do not answer any more
    sinfo --noheader --Node --nodes="$SLURM_JOB_NODELIST" --format='%N %T' 2>/dev/null |
        awk '$2 ~ /[*]$|^down|^fail/ { print $1 }' | sort -u
}

trex_requeue() { # Slurm may end this shell before scontrol has returned, so that the reason is logged first
    local pause
    case "$(scontrol show job --oneliner "$trex_job" 2>/dev/null)" in
    *JobState=CANCELLED* | *JobState=COMPLETING*) # a requeue would bring it back
        trex_say "$1, but it was cancelled: not requeued. Continue with: $trex_continue"
        return
        ;;
    esac
    trex_say "requeue: $1"
    for pause in 1 2 4 8 0; do
        scontrol requeue "$trex_job" && return
        command -v scontrol > /dev/null || break
        sleep $pause
    done
    trex_say "scontrol cannot requeue it. Continue with: $trex_continue"
}

trex_after_death() {
    if [ $trex_starts -le $trex_most_starts ]; then
        trex_requeue "$1"
    else
        trex_say "$1, for the ${trex_starts}th time without anything new: not requeued. Fix the cause, then: $trex_continue"
    fi
}

trex_read_state
if [ $rc = 0 ] || [ "$trex_recorded" = done ]; then
    [ $rc = 0 ] || trex_say "finished; a process ended with code $rc after that"
    rc=0
elif [ "$trex_recorded" = wants_requeue ]; then
    trex_requeue "saved, wants to continue"
elif trex_lost=$(trex_lost_nodes) && [ -n "$trex_lost" ]; then
    trex_after_death "$(echo lost $trex_lost)"
elif [ "$trex_recorded" = failed ]; then
    trex_say "failed with code $rc: not requeued. Fix the cause, then: $trex_continue"
elif [ "$trex_recorded" = nothing ] && [ -e "$trex_canceled" ]; then # rank 0 ended by itself: another job has the run
    trex_say "not begun: not requeued. The lines above say why; then: $trex_continue"
elif [ $rc = $trex_code_interrupted ]; then
    trex_requeue "stopped before anything was begun"
elif [ $rc = 125 ] || [ $rc = 253 ]; then # what srun returns for a step that Slurm ended for its memory
    trex_say "out of memory: not requeued. Ask for more (memory_gb in the cluster file), then: $trex_continue"
elif [ $rc -gt 128 ]; then
    trex_after_death "killed by signal $((rc - 128))"
else
    trex_say "failed with code $rc: not requeued. Fix the cause, then: $trex_continue"
fi

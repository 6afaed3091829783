# Whether the job goes on, now that its processes have ended with code $rc.
# Slurm leaves this shell alone when it announces a preemption or the time limit, so that these lines are reached; on
# scancel it ends the shell too, so that a cancelled job stays cancelled.
trex_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
trex_job=${trex_job:-$SLURM_JOB_ID}
trex_state_file=${trex_states[${SLURM_ARRAY_TASK_ID:-0}]}
trex_most_deaths=5

trex_say() { echo "$(date '+%Y-%m-%d %H:%M:%S') job $trex_job: $*"; }

trex_field() { # a plain field of the state file, which has one a line
    sed -n 's/^ *"'"$1"'": *"\{0,1\}\([^",]*\).*/\1/p' "$trex_state_file" 2>/dev/null | head -n 1
}

trex_state() { # what this very start of the job recorded
    if [ "$(trex_field job)" = "$trex_job" ] && [ "$(trex_field restart)" = "${SLURM_RESTART_COUNT:-0}" ]; then
        trex_field state
    else
        echo nothing
    fi
}

trex_lost_nodes() { # nodes of this job that do not answer any more
    sinfo --noheader --Node --nodes="$SLURM_JOB_NODELIST" --format='%N %T' 2>/dev/null |
        awk '$2 ~ /[*]$|^down|^fail/ { print $1 }' | sort -u
}

trex_not_begun() { # whether rank 0 did not begin: without a record of its own, because another job has the run
    local key=${trex_state_file##*/} place
    { place=$(< "${trex_state_file%/*}/rendezvous/${key%.state.json}-$trex_job-${SLURM_RESTART_COUNT:-0}.json"); } 2>/dev/null
    [[ $place == *'"canceled"'* ]]
}

trex_may_die_again() { # counts the deaths of this job since something new came onto the disk
    local job=none count=0 mark=none now
    now=$(trex_field mark) # what was there when the last start began
    { read -r job count && read -r mark; } 2>/dev/null < "$trex_state_file.deaths"
    [ "$job" = "$trex_job" ] && [ "$mark" = "$now" ] || count=0
    printf '%s %s\n%s\n' "$trex_job" $((count + 1)) "$now" > "$trex_state_file.deaths"
    [ "$count" -lt $trex_most_deaths ]
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
    if trex_may_die_again; then
        trex_requeue "$1"
    else
        trex_say "$1, for the $((trex_most_deaths + 1))th time without anything new: not requeued. Mend the cause, then: $trex_continue"
    fi
}

trex_recorded=$(trex_state)
if [ $rc = 0 ] || [ "$trex_recorded" = done ]; then
    [ $rc = 0 ] || trex_say "finished; a process ended with code $rc after that"
    rc=0
elif [ "$trex_recorded" = wants_requeue ]; then
    trex_requeue "saved, wants to go on"
elif trex_lost=$(trex_lost_nodes) && [ -n "$trex_lost" ]; then
    trex_after_death "$(echo lost $trex_lost)"
elif [ "$trex_recorded" = failed ]; then
    trex_say "failed with code $rc: not requeued. Mend the cause, then: $trex_continue"
elif [ "$trex_recorded" = nothing ] && trex_not_begun; then
    trex_say "not begun: not requeued. The lines above say why; then: $trex_continue"
elif [ $rc = 75 ]; then
    trex_requeue "stopped before anything was begun"
elif [ $rc = 125 ] || [ $rc = 253 ]; then
    trex_say "out of memory: not requeued. Ask for more (memory_gb in the cluster file), then: $trex_continue"
elif [ $rc -gt 128 ]; then
    trex_after_death "killed by signal $((rc - 128))"
else
    trex_say "failed with code $rc: not requeued. Mend the cause, then: $trex_continue"
fi

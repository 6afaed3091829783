# Decides whether to requeue the job after its processes have ended with exit code $rc.
# Before a preemption or the time limit, Slurm signals only the processes and not this shell, so these lines still run.
# On scancel, Slurm ends the shell too, so a cancelled job stays cancelled.
trex_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
trex_job=${trex_job:-$SLURM_JOB_ID}
trex_restart=${SLURM_RESTART_COUNT:-0}
trex_state_file=${trex_states[${SLURM_ARRAY_TASK_ID:-0}]}
trex_cancelled=${trex_rendezvous[${SLURM_ARRAY_TASK_ID:-0}]}-$trex_job-$trex_restart.canceled.json
trex_recorded=nothing             # the state that this start of the job recorded
trex_starts=$((trex_restart + 1)) # how many starts in a row made no progress, including this one

trex_say() { echo "$(date '+%Y-%m-%d %H:%M:%S') job $trex_job: $*"; }

trex_read_state() { # reads the two lines that trex/records/job_state.py writes; a killed start may not have written them
    local job restart state starts
    { read -r job restart && read -r state starts; } 2>/dev/null < "$trex_state_file" || return
    [ "$job" = "$trex_job" ] || return
    [[ $restart =~ ^[0-9]{1,9}$ && $starts =~ ^[0-9]{1,9}$ ]] || return
    [ "$restart" = "$trex_restart" ] && trex_recorded=$state
    trex_starts=$((starts + trex_restart - restart))
}

trex_failed_nodes() { # prints the nodes of this job that no longer respond
    sinfo --noheader --Node --nodes="$SLURM_JOB_NODELIST" --format='%N %T' 2>/dev/null |
        awk '$2 ~ /[*]$|^down|^fail/ { print $1 }' | sort -u
}

trex_end() { # prints how the processes ended
    case $rc in
    $trex_code_lost) echo "lost another process, a connection or a GPU" ;; # the log says what
    135) echo "killed by signal 7 (SIGBUS: a file system failed, or /dev/shm of the node is full)" ;;
    129 | 1[3-9]? | 2??) echo "killed by signal $((rc - 128))" ;;
    *) echo "ended with code $rc, and no process recorded an error" ;; # for example, srun could not reach a node
    esac
}

trex_refused() { # prints why the file system of the run takes no more data, if it does
    local file=$trex_state_file.$trex_job-$trex_restart
    (LC_ALL=C; echo "$trex_job" > "$file") 2>&1 |
        grep -oE 'No space left on device|Disk quota exceeded|Read-only file system' | head -n 1
    rm -f -- "$file" 2>/dev/null
}

trex_out_of_memory() { # whether Slurm killed a process of this start because of its memory
    case $rc in 125 | 253) return 0 ;; esac # srun's exit codes for that, where cgroups limit the memory
    [ $rc -gt 128 ] && tac "$(readlink /proc/$$/fd/1)" 2>/dev/null |
        sed "/^[0-9-]* [0-9:]* job $SLURM_JOB_ID on /q" |
        grep -qiE '^slurmstepd.*(oom.kill|exceeded.*memory limit)|^srun: error: .*Out Of Memory'
}

trex_memory() { # prints the memory that the job asked for, and how much of it accounting says was used
    local asked="the default of the cluster" used
    [ -n "$SLURM_MEM_PER_CPU" ] && asked="$SLURM_MEM_PER_CPU MB per CPU"
    [ -n "$SLURM_MEM_PER_NODE" ] && asked="$SLURM_MEM_PER_NODE MB per node"
    used=$(sacct --noheader --parsable2 --units=M --jobs="$trex_job.0" --format=MaxRSS,MaxRSSTask,MaxRSSNode 2>/dev/null |
        awk -F'|' '$1 { printf "; rank %s on %s used %d MB\n", $2, $3, $1 }' | tail -n 1)
    echo "asked for $asked$used"
}

trex_slurm_requeues() { # whether Slurm itself will requeue this job, which it describes as $1, because it preempts it
    local config partition requeues most
    [[ "$1 " == *" Requeue=1 "* && $1 == *" PreemptTime=2"* ]] || return 1 # a date: the grace time has begun
    config=$(scontrol show config 2>/dev/null)
    [[ $config =~ SLURM_VERSION\ *=\ ([0-9]+)\.([0-9]+) ]] || return 1
    [ "${BASH_REMATCH[1]}${BASH_REMATCH[2]}" -ge 2405 ] || return 1 # older versions record the job as FAILED
    [[ $config == *"= preempt/partition_prio"* ]] || return 1       # with preempt/qos, the mode is in the database
    partition=$(scontrol show partition --oneliner "$SLURM_JOB_PARTITION" 2>/dev/null)
    [[ "$partition " =~ \ PreemptMode=(GANG,)?REQUEUE\  ]] || return 1
    [[ $config =~ MaxBatchRequeue\ *=\ ([0-9]+) ]] && most=${BASH_REMATCH[1]} || return 1
    requeues=$(squeue --local --noheader --jobs="$SLURM_JOB_ID" --Format=BatchFlag 2>/dev/null) # 1 + those by Slurm itself
    [[ $requeues =~ ^\ *([0-9]+)\ *$ ]] || return 1
    [ $((BASH_REMATCH[1] + 2)) -le "$most" ] # more than $most: held; the last one is for the end after a `scontrol requeue`
}

trex_requeue() { # logs the reason first, because Slurm may end this shell before scontrol returns
    local pause job
    job=$(scontrol --local show job --oneliner "$trex_job" 2>/dev/null)
    case "$job" in
    *JobState=CANCELLED* | *JobState=COMPLETING*) # requeueing would undo the cancellation
        trex_say "$1, but it was cancelled: not requeued. Continue with: $trex_continue"
        return
        ;;
    esac
    if trex_slurm_requeues "$job"; then # after `scontrol requeue`, it would requeue the job once more at its next end
        trex_say "requeue: $1; Slurm does it, because it preempts the job"
        return
    fi
    trex_say "requeue: $1"
    for pause in 1 2 4 8 0; do
        scontrol requeue "$trex_job" && return
        command -v scontrol > /dev/null || break
        sleep $pause
    done
    trex_say "scontrol could not requeue the job. Continue with: $trex_continue"
}

trex_requeue_if_progress() { # gives up after too many starts in a row without progress
    if [ $trex_starts -le $trex_most_starts ]; then
        trex_requeue "$1"
    else
        trex_say "$1, start $trex_starts in a row without progress: not requeued. Fix the cause, then run: $trex_continue"
    fi
}

trex_read_state
if [ $rc = 0 ] || [ "$trex_recorded" = done ]; then
    [ $rc = 0 ] || trex_say "finished; afterwards a process ended with code $rc"
    rc=0
elif [ $rc = $trex_code_superseded ]; then
    trex_say "a later start has taken over the run: not requeued"
elif IFS= read -r trex_reason 2> /dev/null < "$trex_note"; then # start.sh or verify.py ended a process
    trex_say "not started: $trex_reason: not requeued. Fix the cause, then run: $trex_continue"
    rm -f -- "$trex_note"
elif [ -n "$trex_launcher" ] && [ "$trex_recorded" = nothing ] && [[ $rc = 126 || $rc = 127 || $rc = 255 ]]; then
    # a shell's codes for a program that cannot be started, and that of apptainer for all its errors
    trex_say "not started: $trex_launcher ended with code $rc, and the lines above say why: not requeued." \
        "Fix the cause, then run: $trex_continue"
elif [ "$trex_recorded" = wants_requeue ]; then
    trex_requeue "saved, not finished yet"
elif trex_failed=$(trex_failed_nodes) && [ -n "$trex_failed" ]; then
    trex_requeue_if_progress "$(echo node failure: $trex_failed)"
elif [ $rc = $trex_code_unwritable ]; then # the state may say `running`, and the log may lack the reason
    trex_say "failed with code $rc: not requeued, because files could not be written: the disk is full, a quota is" \
        "exceeded, the file system is read-only, or the run folder is gone. Fix the cause, then run: $trex_continue"
elif [ "$trex_recorded" = failed ]; then
    trex_say "failed with code $rc: not requeued. Fix the cause, then run: $trex_continue"
elif [ "$trex_recorded" = nothing ] && [ -e "$trex_cancelled" ]; then # rank 0 gave up: another job works on the run
    trex_say "did not start: not requeued. The lines above say why. Then run: $trex_continue"
elif [ $rc = $trex_code_interrupted ] && [ "$trex_recorded" = running ]; then # with this code, everything is saved
    trex_requeue_if_progress "saved, but this could not be recorded"
elif [ $rc = $trex_code_interrupted ]; then
    trex_requeue "stopped before the work started"
elif trex_out_of_memory; then
    trex_say "out of memory ($(trex_memory)): not requeued. Ask for more (memory_gb in the cluster file), or reduce" \
        "data.workers, then run: $trex_continue"
elif [[ " $trex_codes_of_errors " == *" $rc "* ]]; then # an error of its own that could not be recorded
    trex_say "failed with code $rc: not requeued. Fix the cause, then run: $trex_continue"
elif [ "$trex_recorded" = nothing ] && { [ $rc = 126 ] || [ $rc = 127 ]; }; then
    trex_say "the program could not be started (code $rc): not requeued. The lines above say why. Then run: $trex_continue"
elif trex_reason=$(trex_refused) && [ -n "$trex_reason" ]; then # one rank found out, and the others were lost with it
    trex_say "$(trex_end), and the run folder takes no more data ($trex_reason): not requeued." \
        "Fix the cause, then run: $trex_continue"
else # no process recorded an error of its own work, so the machine is at fault
    trex_requeue_if_progress "$(trex_end)"
fi

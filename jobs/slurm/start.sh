# Each process of the job runs this on its node: the lines of setup_process, then Python, through the launcher if there is
# one. exec puts that program in the place of this shell, because many clusters signal only the process that Slurm started.
trex_note=$1 trex_check=$2 trex_work=$3 # where to note why a process did not start, the text of verify.py, the work
set --                                  # a line such as `source FILE` would pass these arguments on
trex_doing='start.sh'

trex_not_started() { # TEXT CODE. The batch script reads the note, and does not requeue the job
    trap - EXIT
    echo "not started: $1" >&2
    echo "$1" >> "$trex_note"
    exit "$2"
}

trex_line() { # CODE: what the last line of setup_process ended with
    [ "$1" = 0 ] || trex_not_started "on node $trex_node, code $1 from the setup_process line: $trex_doing" 2
}

trex_become() { # EXPECTED PROGRAM ...
    local expected=$1
    shift
    type -P -- "$1" > /dev/null || trex_not_started "$1: not found on node $trex_node: expected $expected" 127
    exec "$@"
}

trex_node=${SLURMD_NODENAME:-$HOSTNAME}
trap 'trex_not_started "on node $trex_node, the shell ended with code $? at: $trex_doing" 2' EXIT
trap 'trap - EXIT; exit "$trex_code_interrupted"' TERM USR2 # asked to stop: nothing is lost, the job is requeued

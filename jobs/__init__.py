"""Where and when a run is computed: the command line, submission, requeueing, status."""

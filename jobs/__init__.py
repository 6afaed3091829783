"""Where and when it is computed: the command line, submission, requeueing, status."""

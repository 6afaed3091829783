"""The commands of `trex`, one module per command or family of commands: read arguments, call one function, print."""

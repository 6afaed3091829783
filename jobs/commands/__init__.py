"""The commands of `trex`, one module per command or group of commands: read arguments, call one function, print."""

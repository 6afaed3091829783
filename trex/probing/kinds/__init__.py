"""The kinds of probes, one file each; trex/config/probe_kinds.py names them."""

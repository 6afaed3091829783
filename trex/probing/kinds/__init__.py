"""The kinds of probes, one file per kind, listed in trex/config/probe_kinds.py."""

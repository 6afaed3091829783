"""The config: all settings of a run as one typed tree, read strictly from YAML."""

from trex.config.loader import ConfigError, load, to_yaml
from trex.config.schema import Config

__all__ = ["Config", "ConfigError", "load", "to_yaml"]

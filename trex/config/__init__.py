"""Config: one typed tree for everything that can be set, read from YAML, strictly."""

from trex.config.loader import ConfigError, load, to_yaml
from trex.config.schema import Config

__all__ = ["Config", "ConfigError", "load", "to_yaml"]

"""The agent's version, as it reports it; equal to the one in ``pyproject.toml``."""

VERSION = "0.1.0"

"""Everything that runs on a gateway; never imports Django."""

__version__ = "0.1.0"

"""The options that say which agent is meant, for command lines with a syntax of their own."""

from __future__ import annotations

import argparse

from agents.runtime import paths
from agents.runtime.paths import Paths


def take_places(words: list[str]) -> tuple[Paths, list[str]]:
    """Return the directories named by ``--state`` and ``--run``, and the words that are left."""
    parser = argparse.ArgumentParser(add_help=False)
    paths.add_arguments(parser)
    known, rest = parser.parse_known_args(words)
    return paths.from_arguments(known), rest

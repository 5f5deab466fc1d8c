"""``python -m agents.iked --state DIR --run DIR``: the IKE daemon."""

from __future__ import annotations

import argparse
import asyncio
import sys

from agents.iked.daemon import serve, settle_memory
from agents.runtime import logs, paths


def main() -> int:
    """Parse arguments and run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="iked", description="IKE daemon of the VPN agent")
    paths.add_arguments(parser)
    logs.add_arguments(parser)
    arguments = parser.parse_args()
    settle_memory()
    logs.set_up("iked", arguments.log_level, arguments.log_format)
    try:
        asyncio.run(serve(paths.from_arguments(arguments)))
    except (paths.PathError, OSError) as error:
        print(f"iked: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m agents.agentd``: the process that speaks with the console."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from agents.agentd.daemon import serve
from agents.agentd.errors import NotEnrolledError
from agents.runtime import logs, paths

EX_CONFIG = 78
_log = logging.getLogger("agents.agentd")


def listen_argument(text: str) -> tuple[str, int]:
    """Read ``ADDR:PORT``, ``[ADDR]:PORT`` or ``:PORT`` (all addresses)."""
    address, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDR:PORT")
    return address.removeprefix("[").removesuffix("]"), int(port)


def main() -> int:
    """Run until told to stop; the exit status says why it could not."""
    parser = argparse.ArgumentParser(prog="agentd", description=__doc__)
    paths.add_arguments(parser)
    logs.add_arguments(parser)
    parser.add_argument("--listen", type=listen_argument, help="ADDR:PORT of the API (default: the port enrolled with)")
    arguments = parser.parse_args()
    logs.set_up("agentd", arguments.log_level, arguments.log_format)
    try:
        asyncio.run(serve(paths.from_arguments(arguments), arguments.listen))
    except (NotEnrolledError, paths.PathError) as error:
        _log.error("%s", error)
        return EX_CONFIG
    except OSError as error:
        _log.error("agentd cannot serve: %s", error.strerror or os.strerror(error.errno or 0))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

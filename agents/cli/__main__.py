"""``python -m agents.cli``: the same as ``vpn-agent``."""

from __future__ import annotations

import sys

from agents.cli.vpn_agent import main

if __name__ == "__main__":
    sys.exit(main())

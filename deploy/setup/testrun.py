"""``make test``: every test in one run on two workers, closing with the runner's own line.

What starts real daemons, boots a kernel or drives a browser runs beside the rest; tests that share one machine-wide
thing stay on one worker (``tests/conftest.py``). Arguments are handed to pytest.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Become pytest."""
    workers = os.environ.get("TEST_WORKERS", "2")
    arguments = ["-m", "pytest", "-n", workers, "--no-loadscope-reorder", "-q", "-rfE", "--durations=15", *sys.argv[1:]]
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main()

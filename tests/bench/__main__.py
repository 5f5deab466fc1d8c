"""``make bench``: every figure, measured in one run; exits with 1 when a target is missed.

Throughput is measured side by side with strongSwan, on the same machine in the same minutes, and printed as a ratio.
None of it is a test, because a busy machine must not fail one.
"""

from __future__ import annotations

import sys

from tests.bench import handshakes, throughput


def main() -> int:
    """Measure everything; each part prints its figures and its verdict."""
    met = True
    reason = throughput.missing()
    if reason is None:
        met = throughput.measure()["ratio"] >= throughput.TARGET_RATIO
    else:
        print(f"throughput not measured: {reason}")
    return 0 if handshakes.run() and met else 1


if __name__ == "__main__":
    sys.exit(main())

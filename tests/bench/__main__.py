"""``make bench``: every figure, measured in one run; exits with 1 when a target is missed.

Throughput and handshakes are measured side by side with strongSwan, on the same machine in the same minutes, and
printed as ratios. None of it is a test, because a busy machine must not fail one.
"""

from __future__ import annotations

import signal
import sys

from tests.bench import handshakes, throughput


def main() -> int:
    """Measure everything; each part prints its figures and its verdict."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # namespaces and processes go also then
    reason = throughput.missing() or handshakes.missing()
    if reason is not None:
        print(f"not measured: {reason}")
        return 77
    fast = throughput.measure()["ratio"] >= throughput.TARGET_RATIO
    return 0 if handshakes.run() and fast else 1


if __name__ == "__main__":
    sys.exit(main())

"""``make bench``: every figure, measured in one run; exits with 1 when a target is missed.

The data plane and handshakes are measured side by side with strongSwan, on the same machine in the same minutes, and
printed as ratios; what strangers can make IKEv1 spend stands alone. None of it is a test, because a busy machine must
not fail one.
"""

from __future__ import annotations

import signal
import sys

from tests.bench import handshakes, strangers, throughput, workers


def main() -> int:
    """Measure everything; each part prints its figures and its verdict."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # namespaces and processes go also then
    reason = throughput.missing() or handshakes.missing()
    if reason is not None:
        print(f"not measured: {reason}")
        return 77
    fast = throughput.measure()
    scales = workers.run()
    quick = handshakes.run()
    bounded = strangers.run()
    return 0 if fast and scales and quick and bounded else 1


if __name__ == "__main__":
    sys.exit(main())

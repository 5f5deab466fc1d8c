"""Run a Python module of this repository in a Linux kernel of its own: User Mode Linux (Debian's ``user-mode-linux``).

:func:`run` boots the kernel with the host's files read-only as its root, lets the module do its work as root of that
machine and returns the JSON value it left behind. Nothing needs root on the host. The machine has no network but what
the module makes of namespaces. Deliberately not here: what is tested (``tests/kernel``).
"""

from __future__ import annotations

from deploy.lab.uml.machine import RESULT_VARIABLE, MachineError, Outcome, missing, run

__all__ = ["RESULT_VARIABLE", "MachineError", "Outcome", "missing", "run"]

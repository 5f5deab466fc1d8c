"""Prints a line, leaves no result and ends with status 3: for the test of the machine itself."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    print("hello from inside")
    sys.exit(3)

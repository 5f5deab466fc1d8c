"""What no process loads that does not need it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("process", ["iked", "agentd"])
def test_numpy_is_loaded_by_the_data_plane_alone(process: str) -> None:
    """It takes some 17 MB of each process that has it."""
    code = f"import agents.{process}.__main__, sys; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

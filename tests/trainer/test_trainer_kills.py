"""A trainer that is killed again and again, by real signals, ends with the bytes of one that was left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_training_that_is_killed_four_times_ends_with_the_same_bytes_and_metrics() -> None:
    """Eight kinds of kills take turns; these are a step's, two in a checkpoint's write, and one after SIGTERM."""
    command = [sys.executable, str(ROOT / "bench" / "kills.py"), "--only", "0", "--kills", "4", "--seed", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "services")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "4 kills: the same bytes and metrics" in done.stdout

"""In CI a test that is skipped for want of something that CI can fetch fails the run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPED = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_it(number):
    pytest.skip({reason!r})
"""


def run(folder: Path, reason: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_it.py").write_text(SKIPPED.format(reason=reason))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *options]
    return subprocess.run(command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True)


@pytest.mark.parametrize("options", [["-n0"], ["-n1"]])
def test_a_tool_that_ci_can_fetch_must_not_be_missing(tmp_path: Path, options: list[str]) -> None:
    ended = run(tmp_path, "helm3 is not there", *options, FUSERY_TESTS_NO_SKIPS="1")
    assert ended.returncode == 1
    assert "test_it.py: Skipped: helm3 is not there" in ended.stdout


def test_a_gpu_may_be_missing(tmp_path: Path) -> None:
    assert run(tmp_path, "no CUDA device", "-n0", FUSERY_TESTS_NO_SKIPS="1").returncode == 0


def test_everything_may_be_missing_on_a_machine_of_your_own(tmp_path: Path) -> None:
    assert run(tmp_path, "helm3 is not there", "-n0").returncode == 0

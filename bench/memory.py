"""Peak memory of a function: how far the process's resident size rises above where it stood (Linux)."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")


def peak_mb(function: Callable[[], object]) -> float:
    """Megabytes. The kernel's high-water mark is set back first, so that earlier peaks do not hide this one."""
    # What was freed and kept by the allocator would be taken again without a sign.
    ctypes.CDLL(None).malloc_trim(0)
    (_PROCESS / "clear_refs").write_text("5")
    before = _kb("VmRSS")
    function()
    return (_kb("VmHWM") - before) / 1024


def _kb(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    assert found is not None, f"/proc/self/status has no {field}"
    return int(found.group(1))

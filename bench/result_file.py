"""One benchmark's result as `bench/results/NAME.json`: value, baseline, ratio, goal, machine, and more."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_result(
    name: str,
    *,
    measure: str,
    value: float,
    unit: str,
    baseline: dict[str, Any] | None,
    ratio: float | None,
    goal: str,
    **rest: Any,
) -> Path:
    """Writes the file and says where it is."""
    content = {"measure": measure, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio, "goal": goal}
    content |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores", **rest}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return path

"""What commands cost that only look or have nothing to do, in CPU seconds, against importing torch and transformers.

    make demo && python bench/startup.py      # writes bench/results/startup.json

Each command is run three times and the least is taken: other work on the machine only adds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from result_file import write_result

ROOT = Path(__file__).parent.parent
RUNS = 3
IMPORTS = [sys.executable, "-c", "import torch; from transformers import AutoModelForCausalLM, LlamaForCausalLM"]
RUN = "examples/tiny.yaml"


def cpu_seconds(command: list[str], **environment: str) -> float:
    """Of the command and its children, user and system."""
    before = os.times()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"startup: {' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    fusery = str(Path(sys.executable).with_name("fusery"))
    with tempfile.TemporaryDirectory() as store:
        commands = {
            "import torch, transformers": (IMPORTS, {}),
            "fusery validate, three tiny models": ([fusery, "validate", RUN], {"FUSERY_STORE": store}),
            "make demo, all done": (["make", "demo", f"VENV={Path(sys.executable).parent.parent}"], {}),
        }
        seconds = {name: min(cpu_seconds(c, **e) for _ in range(RUNS)) for name, (c, e) in commands.items()}
    base = seconds["import torch, transformers"]
    for name, value in seconds.items():
        print(f"{name:<36} {value:6.2f} CPU-s  {value / base:5.2f} ×")
    validate = seconds["fusery validate, three tiny models"]
    write_result(
        "startup",
        measure="CPU seconds of fusery validate with three tiny models",
        value=round(validate, 2),
        unit="s",
        baseline={"measure": "CPU seconds of importing torch and transformers", "value": round(base, 2)},
        ratio=round(validate / base, 2),
        goal="5 CPU seconds each",
        cpu_seconds={name: round(value, 2) for name, value in seconds.items()},
    )


if __name__ == "__main__":
    main()

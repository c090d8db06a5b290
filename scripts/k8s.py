"""Writes k8s/*.yaml: examples/kubernetes as `fusery k8s render` prints it. With --check: only says which are stale."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fusery.cluster.manifests.names import Step
from fusery.cluster.manifests.render import render

ROOT = Path(__file__).resolve().parents[1]
RENDERED = {
    "run": ("one-pod", "run"),
    "train": ("own-jobs", "train"),
    "train-multi-node": ("multi-node", "train"),
    "train-jobset": ("jobset", "train"),
    "train-trainjob": ("trainjob", "train"),
    "evaluate": ("own-jobs", "evaluate"),
}
"""A file of k8s/: its example, and the job that is rendered of it."""


def main() -> int:
    stale = []
    # The first line of each names its example as one gives it to the command.
    os.chdir(ROOT)
    for name, (example, job) in RENDERED.items():
        path = ROOT / "k8s" / f"{name}.yaml"
        made = render(Path(f"examples/kubernetes/{example}.yaml"), None if job == "run" else Step(job), {})
        if "--check" not in sys.argv[1:]:
            path.write_text(made, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != made:
            stale.append(path)
    for path in stale:
        print(f"{path}: not what fusery k8s render prints; run make k8s and commit the result", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

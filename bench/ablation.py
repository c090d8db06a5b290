"""Carries an ablation out and keeps its table as bench/results/ablation_NAME.json.

python bench/ablation.py examples/ablations/tiny.yaml [--parallel 2]     # after `make demo`
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from result_file import write_result

from fusery.run.ablation.opened import open_ablation
from fusery.run.ablation.run import ablate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--parallel", type=int, default=1)
    given = parser.parse_args()
    ablate(given.file, given.parallel)
    ablation = open_ablation(given.file)
    table = json.loads((ablation.folder / "ablation.json").read_text(encoding="utf-8"))
    best, clm = table["cases"][0], table["beside"][table["cases"][0]["clm"]]
    keys = ("name", "labels", "bits_per_byte", "spread", "of_seeds", "gains", "gain_of_seeds", "positions", "kept_mass")
    write_result(
        f"ablation_{ablation.file.spec.name.replace('-', '_')}",
        measure=f"held-out bits per byte, mean over domains and seeds, of the best case: {best['name']}",
        value=best["bits_per_byte"]["mean"],
        unit="bits per byte",
        baseline={"what": "CLM on the same tokens and steps", "value": clm["bits_per_byte"]["mean"]},
        ratio=best["bits_per_byte"]["mean"] / clm["bits_per_byte"]["mean"],
        goal="below 1, and the defaults among the best",
        seeds=table["seeds"],
        training_seconds=table["training_seconds"],
        cases=[{key: case[key] for key in keys} for case in table["cases"]],
        beside=table["beside"],
        remarks=table["remarks"],
    )


if __name__ == "__main__":
    main()

"""Does fusing beat continual training on the same tokens? Several seeds, learning rates tuned for both.

    python bench/tiny_seeds.py                  # after `make demo`; writes bench/results/tiny_seeds.json

First every learning rate (and λ) is tried with one seed on the development documents, for CLM and for the fused
training apart; then the best of each is trained with every seed (other order of the documents, other packing) and
measured on the held-out documents. Experts and captures are those of the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from result_file import write_result

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "tiny.yaml"
DEV = ROOT / "examples" / "work" / "tiny" / "corpus" / "dev.jsonl"


@dataclass(frozen=True, slots=True)
class Trial:
    """One training. `clm_weight` 1 is the CLM baseline."""

    learning_rate: float
    clm_weight: float
    seed: int
    split: str

    @property
    def is_clm(self) -> bool:
        return self.clm_weight == 1.0


def carry_out(trial: Trial) -> dict[str, float]:
    """Bits per byte by domain, and their mean, after the training."""
    import torch

    from fusery.evaluation.bits_per_byte import HeldOutDocument, measure
    from fusery.hops.tables import load_vocabulary_map
    from fusery.run.open_run import open_run
    from fusery.run.steps import steps
    from fusery.run.steps.training_file import fused_documents
    from fusery.source.engines.transformers import load_engine
    from fusery.trainer.job import TrainJob, train

    torch.set_num_threads(1)
    run = open_run(EXAMPLE)
    plan = steps.load_plan(run)
    changes = {
        "learning_rate": trial.learning_rate,
        "clm_learning_rate": None,
        "clm_weight": min(trial.clm_weight, 1.0),
    }
    documents = steps.held_out(run)
    if trial.split == "dev":
        lines = [json.loads(line) for line in DEV.read_text(encoding="utf-8").splitlines()]
        documents = [HeldOutDocument(str(i), line["domain"], line["text"]) for i, line in enumerate(lines)]
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            TrainJob(
                target=run.file.model(run.config.target.model),
                output=Path(folder),
                documents=fused_documents(run.store, plan),
                partitions=[load_vocabulary_map(run.store, plan, source).cell_of_target_V for source in plan.sources],
                training=run.config.training.model_copy(update=changes),
                config_digest="bench",
                seed=trial.seed,
                clm_only=trial.is_clm,
                threads=1,
            )
        )
        scores = measure(load_engine(str(result.model)), documents)
    return {name: score.bits_per_byte for name, score in scores.domains.items()} | {"mean": scores.mean_bits_per_byte}


def best(trials: list[Trial], results: list[dict[str, float]]) -> Trial:
    return min(zip(trials, results, strict=True), key=lambda pair: pair[1]["mean"])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3])
    parser.add_argument("--clm-weights", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        clm = [Trial(rate, 1.0, 0, "dev") for rate in given.learning_rates]
        fused = [Trial(rate, weight, 0, "dev") for weight in given.clm_weights for rate in given.learning_rates]
        tuned = list(pool.map(carry_out, clm + fused))
        for trial, result in zip(clm + fused, tuned, strict=True):
            print(f"dev   λ={trial.clm_weight:.1f} lr={trial.learning_rate:g}  {shown(result)}", flush=True)
        chosen = best(clm, tuned[: len(clm)]), best(fused, tuned[len(clm) :])
        finals = [Trial(c.learning_rate, c.clm_weight, seed, "held_out") for c in chosen for seed in range(given.seeds)]
        results = list(pool.map(carry_out, finals))
    for trial, result in zip(finals, results, strict=True):
        print(f"held out  seed {trial.seed} λ={trial.clm_weight:.1f} lr={trial.learning_rate:g}  {shown(result)}")
    report(finals, results, list(zip(clm + fused, tuned, strict=True)))


def shown(result: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in result.items())


def report(trials: list[Trial], results: list[dict[str, float]], tuned: list[tuple[Trial, dict[str, float]]]) -> None:
    """Prints the table and writes the result file."""
    clm = [r for t, r in zip(trials, results, strict=True) if t.is_clm]
    fused = [r for t, r in zip(trials, results, strict=True) if not t.is_clm]
    print("\n| | " + " | ".join(clm[0]) + " |\n|---" * 1 + "|---" * len(clm[0]) + "|")
    for name, rows in (("CLM", clm), ("fused", fused)):
        cells = [
            f"{statistics.mean(r[d] for r in rows):.4f} ± {statistics.pstdev(r[d] for r in rows):.4f}" for d in clm[0]
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    ratios = [f["mean"] / c["mean"] for c, f in zip(clm, fused, strict=True)]
    print(f"fused / CLM, mean over domains, per seed: {', '.join(f'{ratio:.4f}' for ratio in ratios)}")
    write_result(
        "tiny_seeds",
        measure="held-out bits per byte of the fused model, mean over three domains and seeds",
        value=statistics.mean(r["mean"] for r in fused),
        unit="bits per byte",
        baseline={"what": "CLM on the same tokens and steps", "value": statistics.mean(r["mean"] for r in clm)},
        ratio=statistics.mean(ratios),
        goal="below 1 in every seed",
        per_seed=[
            {"seed": t.seed, "clm_weight": t.clm_weight, "learning_rate": t.learning_rate, **r}
            for t, r in zip(trials, results, strict=True)
        ],
        tuning_on_dev=[{"clm_weight": t.clm_weight, "learning_rate": t.learning_rate, **r} for t, r in tuned],
    )


if __name__ == "__main__":
    main()

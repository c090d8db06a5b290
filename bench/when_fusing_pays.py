"""When does fusing pay? The gain over CLM on the tiny models, along five roads from one centre.

    python bench/when_fusing_pays.py [--at-most N]     # after `make demo`; go on by the same command
    python bench/when_fusing_pays.py --quick           # three small points, to see that it works
    python bench/when_fusing_pays.py --record          # the result file and the picture, from what is done

The target is the demo's docs model (or one of another width); the domain is C++ headers; there is one source. A point
changes one thing of the centre: how long the source was trained (its lead over what CLM reaches), whether it has the
target's tokenizer, how many documents there are, how often they are read, how wide the target is. For each point the
learning rate is chosen for CLM and for fusing apart, on 60 held-out documents; the gain is measured on 120 others.

Every training's scores are a file of bench/work/when_fusing_pays under the name of what decides them: kill it when you
like, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pays_models import (
    DEMO,
    DOMAIN,
    ROOT,
    SOURCE_STEPS,
    TARGET,
    WIDTH,
    WORK,
    Point,
    engine_of,
    fused,
    source_folder,
    target_folder,
    texts,
)
from result_file import write_result

from fusery.evaluation.bits_per_byte import HeldOutDocument, measure
from fusery.evaluation.gain import Gain, paired_gain
from fusery.evaluation.scores import Scores
from fusery.hops.names import digest
from fusery.hops.tables import load_vocabulary_map
from fusery.run.steps.training_file import fused_documents
from fusery.source.engines.transformers import load_engine
from fusery.trainer.job import TrainJob, train

PICTURE = ROOT / "docs" / "images" / "when_fusing_pays.png"
TUNING_DOCUMENTS = 60
RATES = (1e-3, 2e-3, 4e-3)


CENTRE = Point()
ROADS: dict[str, tuple[Point, ...]] = {
    "lead": tuple(replace(CENTRE, source_steps=n) for n in (10, 30, 120, 240, SOURCE_STEPS)),
    "lead, same tokenizer": tuple(
        replace(CENTRE, source_steps=n, same_tokenizer=True) for n in (30, 120, SOURCE_STEPS)
    ),
    "documents": tuple(replace(CENTRE, documents=n) for n in (18, 37, 74, 147)),
    "epochs": tuple(replace(CENTRE, epochs=n) for n in (1, 4, 16)),
    "width": tuple(replace(CENTRE, width=n) for n in (64, 96, WIDTH, 192)),
}
QUICK = (
    replace(CENTRE, source_steps=30, documents=18, epochs=1),
    replace(CENTRE, documents=18, epochs=1),
    replace(CENTRE, source_steps=30, same_tokenizer=True, documents=18, epochs=1),
)


# Trainings and their scores, each kept.


class Budget:
    """How many trainings and measurements this call may still make."""

    def __init__(self, most: int | None) -> None:
        self._left = most
        self.spent_s: list[float] = []

    def take(self, work: Callable[[], Scores]) -> Scores:
        if self._left == 0:
            raise SystemExit("as many as --at-most allows are done; the same command goes on")
        self._left = None if self._left is None else self._left - 1
        started = time.process_time()
        scores = work()
        self.spent_s.append(time.process_time() - started)
        return scores


def kept(name: str, key: object, budget: Budget, work: Callable[[], Scores]) -> Scores:
    path = WORK / "scores" / f"{name}-{digest(key)[:12]}.json"
    if not path.exists():
        scores = budget.take(work)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(scores.to_json()), encoding="utf-8")
        draft.rename(path)
    return Scores.from_json(json.loads(path.read_text(encoding="utf-8")))


def held_out() -> list[HeldOutDocument]:
    return [HeldOutDocument(str(number), DOMAIN, text) for number, text in enumerate(texts("held_out"))]


def trained(point: Point, rate: float, clm_only: bool, budget: Budget) -> Scores:
    """Scores of one training on all held-out documents. CLM does not depend on the source."""
    read = asdict(point) | ({"source_steps": 0, "same_tokenizer": False} if clm_only else {})

    def work() -> Scores:
        run, plan = fused(point)
        changes = {"learning_rate": rate, "clm_learning_rate": None, "epochs": point.epochs}
        with tempfile.TemporaryDirectory() as folder:
            result = train(
                TrainJob(
                    target=str(target_folder(point)),
                    output=Path(folder),
                    documents=fused_documents(run.store, plan),
                    partitions=[load_vocabulary_map(run.store, plan, plan.sources[0]).cell_of_target_V],
                    training=run.config.training.model_copy(update=changes),
                    config_digest="bench",
                    seed=point.seed,
                    clm_only=clm_only,
                    threads=1,
                )
            )
            return measure(load_engine(str(result.model)), held_out())

    return kept("clm" if clm_only else "fused", [read, rate], budget, work)


def untrained(folder: Path, budget: Budget) -> Scores:
    return kept(folder.name, str(folder), budget, lambda: measure(engine_of(folder), held_out()))


def part(scores: Scores, tuning: bool) -> Scores:
    """The documents to choose by, or those to measure on."""
    rows = slice(0, TUNING_DOCUMENTS) if tuning else slice(TUNING_DOCUMENTS, None)
    return Scores(scores.doc_ids[rows], scores.doc_domains[rows], scores.bits[rows], scores.predicted_bytes[rows])


def best(point: Point, clm_only: bool, rates: tuple[float, ...], budget: Budget) -> tuple[float, Scores]:
    """The learning rate that is best on the tuning documents, and its scores on the others."""
    by_rate = {rate: trained(point, rate, clm_only, budget) for rate in rates}
    rate = min(by_rate, key=lambda rate: part(by_rate[rate], tuning=True).mean_bits_per_byte)
    return rate, part(by_rate[rate], tuning=False)


def compare(point: Point, rates: tuple[float, ...], budget: Budget) -> dict[str, Any]:
    """One point's figures. `lead`: bits per byte by which the source is below what CLM reaches."""
    clm_rate, clm = best(point, True, rates, budget)
    fused_rate, of_fused = best(point, False, rates, budget)
    source = part(untrained(source_folder(point), budget), tuning=False)
    before = part(untrained(target_folder(point), budget), tuning=False)
    gain: Gain = paired_gain(clm, of_fused, seed=0)
    bits = {"before": before, "clm": clm, "fused": of_fused, "source": source}
    return {
        **asdict(point),
        "bits_per_byte": {name: scores.mean_bits_per_byte for name, scores in bits.items()},
        "lead": clm.mean_bits_per_byte - source.mean_bits_per_byte,
        "gain": gain.relative.to_json(),
        "learning_rates": {"clm": clm_rate, "fused": fused_rate},
    }


def shown(row: dict[str, Any]) -> str:
    point = ", ".join(f"{key} {row[key]}" for key in asdict(CENTRE))
    gain = row["gain"]
    return (
        f"{point}: lead {row['lead']:+.3f} bits, fused {100 * gain['value']:+.2f} % "
        f"[{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}] of CLM"
    )


# The result.


def plot(roads: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    panels = {
        "lead": "source's lead over what CLM reaches (bits per byte)",
        "documents": "distinct documents (330 bytes each)",
        "epochs": "epochs",
        "width": "width of the target",
    }
    for axes, (road, label) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for name in (road, f"{road}, same tokenizer"):
            rows = sorted(roads.get(name, []), key=lambda row: row[road])
            values = [100 * row["gain"]["value"] for row in rows]
            around = [[100 * abs(row["gain"][end] - row["gain"]["value"]) for row in rows] for end in ("low", "high")]
            if rows:
                kind = "the target's tokenizer" if name != road else "a tokenizer of its own"
                axes.errorbar([row[road] for row in rows], values, around, marker="o", capsize=3, label=kind)
        if road == "lead":
            axes.axvline(0, color="grey", linewidth=0.8)
            axes.legend(frameon=False)
        else:
            axes.set_xscale("log", base=2)
            axes.set_xticks([row[road] for row in roads[road]], [str(row[road]) for row in roads[road]])
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_xlabel(label)
        axes.set_ylabel("fused against CLM (%)")
        axes.grid(alpha=0.3)
    figure.suptitle("When fusing pays: bits per byte of C++ against CLM, below 0 is better (95 % intervals)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def record(roads: dict[str, list[dict[str, Any]]]) -> None:
    centre = next(row for row in roads["epochs"] if all(row[key] == value for key, value in asdict(CENTRE).items()))
    control = next(row for row in roads["lead, same tokenizer"] if row["source_steps"] == SOURCE_STEPS)
    plot(roads, PICTURE)
    write_result(
        "when_fusing_pays",
        measure="bits per byte of C++ of the fused model at the centre, one source, learning rates chosen apart",
        value=centre["bits_per_byte"]["fused"],
        unit="bits per byte",
        baseline={"what": "CLM on the same tokens and steps", "value": centre["bits_per_byte"]["clm"]},
        ratio=1 + centre["gain"]["value"],
        goal="below 1 where the source leads what CLM reaches",
        control={"what": "a source with the target's tokenizer", "ratio": 1 + control["gain"]["value"]},
        roads=roads,
    )
    print(f"picture: {PICTURE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--at-most", type=int, metavar="N", help="trainings and measurements in this call")
    given = parser.parse_args()
    if not (DEMO / "models" / TARGET / "model.safetensors").exists():
        raise SystemExit(f"{DEMO}: the demo's models are not there; make them first: make demo")
    torch.set_num_threads(1)
    budget = Budget(0 if given.record else given.at_most)
    if given.quick:
        for point in QUICK:
            print(shown(compare(point, RATES[1:2], budget)), flush=True)
    else:
        roads: dict[str, list[dict[str, Any]]] = {}
        for road, points in ROADS.items():
            for point in points:
                roads.setdefault(road, []).append(compare(point, RATES, budget))
                print(f"{road}: {shown(roads[road][-1])}", flush=True)
        record(roads)
    if budget.spent_s:
        print(f"{len(budget.spent_s)} trainings and measurements, {statistics.mean(budget.spent_s):.0f} CPU s each")


if __name__ == "__main__":
    main()

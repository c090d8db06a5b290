"""The table of two real LLMs, from a finished run of `make small-llms`.

    python bench/real_table.py [FILE.yaml]     # writes bench/results/real_table.json, prints the table for the docs

It measures nothing: the figures are those of the run's evaluation.json, with what explains them: what each source had
over CLM in each domain, its share of the evidence, its coverage.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from result_file import write_result

from fusery.evaluation.report import report as reports
from fusery.evaluation.report.report import Report
from fusery.evaluation.report.tables import to_markdown
from fusery.evaluation.tasks.scores import TaskScores, difference
from fusery.run.open_run import Run, open_run
from fusery.run.steps import steps

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "small-llms.yaml"


def finished(path: Path) -> tuple[Run, Report]:
    run = open_run(path)
    if not steps.evaluation_path(run).exists():
        raise SystemExit(f"run {run.run_id} is not evaluated yet; carry it out first: fusery run {path}")
    report = reports.read(steps.evaluation_path(run))
    if report.clm is None:
        raise SystemExit(f"run {run.run_id} has no CLM baseline; set evaluation.clm_baseline: true")
    return run, report


def bits(report: Report) -> dict[str, dict[str, float]]:
    """Bits per byte by model, then by domain and their mean."""
    return {
        name: {domain: score.bits_per_byte for domain, score in scores.domains.items()}
        | {"mean": scores.mean_bits_per_byte}
        for name, scores in report.models.items()
    }


def leads(table: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """By source and domain, the bits per byte by which it is below what CLM reaches: what there is to be learned."""
    clm = table["CLM"]
    sources = {name: row for name, row in table.items() if name.startswith("source ")}
    return {name: {domain: clm[domain] - value for domain, value in row.items()} for name, row in sources.items()}


def tasks(report: Report) -> dict[str, Any]:
    """By task: every model's score, and what the fused model has more than the target before."""
    before, after = report.tasks.get("target before", {}), report.tasks.get("fused", {})
    found: dict[str, Any] = {}
    for task in after:
        scores: dict[str, TaskScores] = {name: of[task] for name, of in report.tasks.items() if task in of}
        found[task] = {
            "metric": after[task].metric,
            "few_shot": after[task].few_shot,
            "items": len(after[task].items),
            "scores": {name: of.mean for name, of in scores.items()},
        }
        if task in before:
            found[task]["fused_minus_before"] = difference([before[task]], [after[task]], report.seed).to_json()
    return found


def seconds(run: Run) -> dict[str, float]:
    """What the trainings took, by their own clocks."""
    plan = steps.load_plan(run)
    paths = {name: steps.training_folder(run, plan, clm) for name, clm in ((steps.FUSED, False), (steps.CLM, True))}
    last = {name: (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1] for name, path in paths.items()}
    return {name: json.loads(line)["elapsed_s"] for name, line in last.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=EXAMPLE)
    run, report = finished(parser.parse_args().file)
    table, gains = bits(report), report.gains()
    train = run.corpora.train
    print(to_markdown(report))
    write_result(
        "real_table",
        measure="bits per byte of the fused model on held-out text, mean over domains",
        value=table["fused"]["mean"],
        unit="bits per byte",
        baseline={"what": "CLM on the same tokens and steps", "value": table["CLM"]["mean"]},
        ratio=1 + gains["CLM"].relative.value,
        goal="below 1, with an interval that excludes it",
        run=run.run_id,
        target=Path(run.config.target.model).name,
        sources=[Path(source.model).name for source in run.config.sources],
        text={"train_documents": train.documents, "train_bytes": train.bytes, "held_out": len(report.fused.doc_ids)},
        bits_per_byte=table,
        gains={name: gain.relative.to_json() for name, gain in gains.items()},
        domain_gains={
            name: {d: g.relative.to_json() for d, g in of.items()} for name, of in report.domain_gains().items()
        },
        leads_over_clm=leads(table),
        tasks=tasks(report),
        coverage=report.coverage,
        wins=report.wins,
        remarks=report.remarks,
        verdict=None if report.verdict is None else report.verdict.to_json(),
        training=report.training,
        training_s=seconds(run),
    )


if __name__ == "__main__":
    main()

"""`fusery status`: how far a run is, read from the store alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fusery.errors import ConfigError
from fusery.evaluation import report as reports
from fusery.evaluation.tables import render_tables
from fusery.pipeline import steps
from fusery.pipeline.coordinator import Coordinator
from fusery.pipeline.preflight import Run, open_run
from fusery.worker.plan import Plan, plan_name


def show_status(path: Path, as_json: bool) -> None:
    """Prints the state of every hop and step of the run of `path`.

    Raises:
        ConfigError: the store can't be read.
    """
    run = open_run(path)
    try:
        note = run.store.read_note(plan_name(run.run_id))
    except OSError as error:
        raise ConfigError(
            f"store {run.store.url}: can't be read: {error}; check services.store and FUSERY_STORE"
        ) from error
    content = state(run, None if note is None else Plan.model_validate(note))
    if as_json:
        print(json.dumps(content, indent=1))
        return
    console = Console()
    begun = "" if content["steps"] else f": nothing is done yet; start it with: fusery run {path}"
    console.print(Text(f"run {run.run_id}{begun}"), soft_wrap=True)
    if content["steps"]:
        console.print(_table(content["steps"]))
    if content["evaluation"] is not None:
        for part in render_tables(reports.read(Path(content["evaluation"]))):
            console.print(part)


def _table(steps_done: dict[str, dict[str, int]]) -> Table:
    table = Table(box=None)
    table.add_column("step")
    table.add_column("done", justify="right")
    for name, part in steps_done.items():
        table.add_row(name, f"{part['done']}/{part['total']}")
    return table


def state(run: Run, plan: Plan | None) -> dict[str, Any]:
    """JSON values: run_id, steps (name → done, total), model, evaluation and registered version where they exist."""
    parts: dict[str, dict[str, int]] = {}
    model = evaluation = None
    if plan is not None:
        # Looks once and publishes nothing.
        coordinator = Coordinator(run.store, plan, lambda _: False, launch="status", max_in_flight=0)
        for hop in coordinator.step().hops:
            parts[f"{hop.hop.value} {hop.source}".strip()] = {"done": hop.done, "total": hop.total}
        for source in plan.sources:
            found = run.store.find(steps.source_scores_name(run, plan, source.name)) is not None
            parts[f"measure {source.name}"] = {"done": int(found), "total": 1}
        trainings = [False, True] if run.config.evaluation.clm_baseline else [False]
        for clm_only in trainings:
            name = "train clm" if clm_only else "train fused"
            parts[name] = {"done": int(steps.is_trained(run, plan, clm_only)), "total": 1}
        if steps.is_trained(run, plan, clm_only=False):
            model = str(steps.training_folder(run, plan, clm_only=False) / "model")
        if steps.evaluation_path(run).exists():
            evaluation = str(steps.evaluation_path(run))
        parts["evaluate"] = {"done": int(evaluation is not None), "total": 1}
    registered = run.store.read_note(f"{run.name}/registered.json")
    if plan is not None and run.config.registry.enabled:
        parts["register"] = {"done": int(registered is not None), "total": 1}
    return {
        "run_id": run.run_id,
        "steps": parts,
        "model": model,
        "evaluation": evaluation,
        "registered": registered,
    }

"""`fusery status`: how far a run is, read from the store alone.

What is done is counted by listing; what only a coordinator knows (processes at work, rates, dead letters) is what it
last wrote. Whether one lives shows in a beat that moves: clocks of other machines say nothing.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from fusery.evaluation.report import report as reports
from fusery.evaluation.report.tables import render_tables
from fusery.hops.names import coordinator_name, plan_name
from fusery.hops.plan import Plan
from fusery.hops.store.store import Store
from fusery.run.board import Line, hop_lines, line_of, progress_table, read_board, table_row
from fusery.run.coordinator.coordinator import PACE
from fusery.run.coordinator.execution import read_progress
from fusery.run.coordinator.progress import HopProgress, Progress
from fusery.run.coordinator.shard_table import ShardTable
from fusery.run.open_run import Run, open_run
from fusery.run.steps import steps
from fusery.runtime import output
from fusery.runtime.errors import ConfigError, FuseryError
from fusery.runtime.settings import settings
from fusery.runtime.text.shown import shown

_WATCH_S = 5.0


def show_status(given: str, store_url: str | None, as_json: bool, watch: bool = False) -> None:
    """Prints the state of every hop and step of a run; `given`: its YAML, or its id.

    Raises:
        ConfigError: there is no such run, or the store can't be read.
    """
    console = output.console(breaks_lines=False)
    is_file = given.endswith((".yaml", ".yml")) or Path(given).exists()
    run = open_run(Path(given)) if is_file else None
    store = run.store if run is not None else _store(store_url)
    run_id = run.run_id if run is not None else given
    while True:
        content = _content(store, run_id, run)
        if as_json:
            print(json.dumps(content, indent=None if watch else 1), flush=True)
        else:
            _show(console, content, given)
        if not watch or _is_done(content):
            return
        time.sleep(_WATCH_S)


def _store(url: str | None) -> Store:
    url = url or settings().store
    if url is None:
        raise ConfigError(
            "a run's id alone does not say where it lies; give --store URL, set FUSERY_STORE, or name a YAML"
        )
    return Store(url)


def _content(store: Store, run_id: str, run: Run | None) -> dict[str, Any]:
    note = store.read_note(plan_name(run_id))
    try:
        plan = None if note is None else Plan.model_validate(note)
    except ValidationError as error:
        raise ConfigError(
            f"run {run_id}: its plan is of another version of fusery, or has options that were removed; start it again"
        ) from error
    if run is not None:
        return state(run, plan)
    if plan is None:
        begun = ", ".join(folder.rpartition("/")[2] for folder in store.folders("runs")) or "none"
        raise ConfigError(f"store {store.url} has no run {run_id}; it has: {begun}")
    return state_of_hops(store, plan)


def state_of_hops(store: Store, plan: Plan) -> dict[str, Any]:
    """JSON values: run_id, coordinator (or null), steps (title → a line's values), failed_attempts, dead_letters."""
    coordinator = _coordinator(store, plan.run_id)
    kept = read_progress(store, plan.run_id)
    lines = hop_lines(_counted(store, plan, kept if kept is not None else Progress((), ()), coordinator))
    shown = {content["title"]: content for content in read_board(store, plan.run_id)}
    parts = {}
    for line in lines:
        parts[line.title] = _values(line)
        # Rates are those of a coordinator that works; nothing else measures them.
        known = shown.pop(line.title, {}) if coordinator is not None and coordinator["alive"] else {}
        parts[line.title] |= {name: known.get(name) for name in ("rate", "left_s")}
        shown.pop(line.title, None)
    parts |= {title: _values(line_of(content)) for title, content in shown.items()}
    content = {"hops": [], "dead_letters": []} if kept is None else kept.to_json()
    failed = [
        {"step": line.title, **found}
        for hop, line in zip(content["hops"], [] if kept is None else hop_lines(kept), strict=True)
        for found in hop["reasons"]
    ]
    return {
        "run_id": plan.run_id,
        "coordinator": coordinator,
        "steps": parts,
        "failed_attempts": failed,
        "dead_letters": content["dead_letters"],
    }


def _counted(store: Store, plan: Plan, kept: Progress, coordinator: dict[str, Any] | None) -> Progress:
    """What is done by the store's own listing; the rest as the coordinator last counted it."""
    table = ShardTable(plan)
    known = {(hop.hop, hop.source): hop for hop in kept.hops}
    hops = []
    for key, row in table.rows.items():
        table.take_listing(row, store.listed(row.folder))
        before = known.get(key, HopProgress(*key, 0, 0))
        is_alive = coordinator is not None and coordinator["alive"]
        done, size = int(row.done_S.sum()), int(row.size_S.sum())
        counted = replace(before, done=done, total=len(row.done_S), bytes=size)
        hops.append(counted if is_alive else replace(counted, running=0, waits_for=""))
    return Progress(tuple(hops), kept.dead_letters)


def _coordinator(store: Store, run_id: str) -> dict[str, Any] | None:
    """Who carries the run out: worker (host:pid), alive. None: no process does, or it ended in order."""
    first = _note(store, run_id)
    deadline = time.monotonic() + PACE.lease_s / 5 + 1.5
    found = first
    while found is not None and found == first and time.monotonic() < deadline:
        time.sleep(0.3)
        found = _note(store, run_id)
    return None if found is None else {"worker": found.get("worker"), "alive": found != first}


def _note(store: Store, run_id: str) -> dict[str, Any] | None:
    try:
        return store.read_note(coordinator_name(run_id))
    except FuseryError:
        return None


def _values(line: Line) -> dict[str, Any]:
    names = ("unit", "running", "failed", "dead", "bytes", "note")
    return {"done": line.amount, "total": line.total, **{name: getattr(line, name) for name in names}}


def state(run: Run, plan: Plan | None) -> dict[str, Any]:
    """As `state_of_hops`, with the steps after the hops, and model, evaluation and registered version if there are."""
    nothing: dict[str, Any] = {
        "run_id": run.run_id,
        "coordinator": None,
        "steps": {},
        "failed_attempts": [],
        "dead_letters": [],
    }
    content = nothing if plan is None else state_of_hops(run.store, plan)
    parts, later = content["steps"], {} if plan is None else _later_steps(run, plan)
    # A training counts its tokens on the board, and is done when its result is there.
    for name, is_done in later.items():
        shown = parts.pop(name, _values(Line(name, 0, 1, "steps")))
        done = shown["total"] if is_done else min(shown["done"], shown["total"] - 1)
        parts[name] = {**shown, "done": done, "rate": None, "left_s": None}
    is_trained = plan is not None and steps.is_trained(run, plan, clm_only=False)
    folder = None if plan is None else steps.training_folder(run, plan, clm_only=False)
    return {
        **content,
        "steps": {name: part for name, part in parts.items() if name in later or "rate" in part},
        "model": str(folder / "model") if folder is not None and is_trained else None,
        "evaluation": str(steps.evaluation_path(run)) if steps.evaluation_path(run).exists() else None,
        "registered": run.store.read_note(f"{run.name}/registered.json"),
    }


def _later_steps(run: Run, plan: Plan) -> dict[str, bool]:
    """What comes after the hops, in order → whether it is done."""
    done = {
        f"measure {source.name}": run.store.find(steps.source_scores_name(run, plan, source.name)) is not None
        for source in plan.sources
    }
    done["train fused"] = steps.is_trained(run, plan, clm_only=False)
    if run.config.evaluation.clm_baseline:
        done["train clm"] = steps.is_trained(run, plan, clm_only=True)
    for source, alone in steps.single_sources(run, plan).items():
        done[f"train only {source}"] = steps.is_trained(run, alone, clm_only=False)
    done["evaluate"] = steps.evaluation_path(run).exists()
    if run.config.registry.enabled:
        done["register"] = run.store.read_note(f"{run.name}/registered.json") is not None
    return done


def _is_done(content: dict[str, Any]) -> bool:
    parts = content["steps"].values()
    return bool(parts) and all(part["done"] >= part["total"] for part in parts)


def _show(console: Console, content: dict[str, Any], given: str) -> None:
    begun = "" if content["steps"] else f": nothing is done yet; start it with: fusery run {given}"
    console.print(Text(shown(f"run {content['run_id']}{begun}{_who(content)}")), soft_wrap=True)
    if content["steps"]:
        lines = [line_of({"title": title, **part}) for title, part in content["steps"].items()]
        parts = content["steps"].values()
        rows = [table_row(line, part.get("rate"), part.get("left_s")) for line, part in zip(lines, parts, strict=True)]
        console.print(progress_table(rows, lines))
    for letter in content["dead_letters"]:
        documents = f" (at work on: {', '.join(letter['documents'])})" if letter["documents"] else ""
        console.print(Text(shown(f"given up: {letter['task']}: {letter['reason']}{documents}"), "red"), soft_wrap=True)
    if content.get("evaluation") is not None:
        for part in render_tables(reports.read(Path(content["evaluation"]))):
            console.print(part)


def _who(content: dict[str, Any]) -> str:
    if not content["steps"] or _is_done(content):
        return ""
    coordinator = content["coordinator"]
    if coordinator is None:
        return ": nobody carries it out now; the command that began it goes on"
    if coordinator["alive"]:
        return f": {coordinator['worker']} carries it out"
    return f": {coordinator['worker']} carried it out and is gone; the command that began it goes on"

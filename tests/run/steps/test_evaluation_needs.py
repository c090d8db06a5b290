"""What an evaluation lacks is said before it begins, with the command or the setting that helps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fusery.hops.plan import Plan
from fusery.run.open_run import Run, open_run, publish_input
from fusery.run.steps import baselines, steps
from fusery.run.steps.baselines import check_domains, check_measured
from fusery.run.steps.tasks import check_tasks
from fusery.runtime.errors import ConfigError, CorpusError
from support.runs.coverage_notes import KINDS, begun, finish
from support.runs.pico_run import write_run
from support.source.fake_source import FakeSource


def _mark(stage: str, done: int, of: int, unit: str) -> None:
    """Nobody looks at how far it is."""


def with_domain(folder: Path, side: str, **row: str) -> None:
    path = folder / f"corpus/{side}.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + json.dumps(row) + "\n", encoding="utf-8")


def test_a_domain_without_held_out_text_is_refused_before_any_work(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    with_domain(tmp_path, "train", text="SELECT 1;", domain="sql")
    told = (
        "training text of domain 'sql' without held-out text, held-out text of domains 'prose', 'code'; name some under"
    )
    with pytest.raises(CorpusError, match=re.escape(told)):
        check_domains(open_run(file))
    with pytest.raises(CorpusError, match=re.escape(told)):
        check_tasks(open_run(file))


def test_held_out_text_of_further_domains_is_fine(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    with_domain(tmp_path, "held_out", text="SELECT 1;", domain="sql")
    check_domains(open_run(file))


def test_a_gate_that_does_not_look_at_domains_asks_for_none(tmp_path: Path) -> None:
    file = write_run(tmp_path, gate={"domain_tolerance": None})
    with_domain(tmp_path, "train", text="SELECT 1;", domain="sql")
    check_domains(open_run(file))


def measured_by_an_earlier_version(folder: Path) -> tuple[Run, Plan]:
    """A run that says it is complete, with captures of the training text and nothing of the held-out text."""
    run, plan = begun(folder)
    publish_input(run)
    finish(run, plan)
    run.store.write_note(f"{run.name}/complete.json", {"promised": "all of it"})
    return run, plan


def test_missing_answers_of_sources_are_named_with_the_command_that_asks_them(tmp_path: Path) -> None:
    run, plan = measured_by_an_earlier_version(tmp_path)
    names = {source: steps.source_measures(run, plan, source) for source in KINDS}
    with pytest.raises(ConfigError) as error:
        check_measured(run, names)
    assert f"the store lacks what sources {', '.join(KINDS)} said of the held-out text" in str(error.value)
    assert str(error.value).endswith(f"make it with: fusery run {run.file.path}")
    # That command must not find the run complete.
    assert run.store.read_note(f"{run.name}/complete.json") is None


def test_an_ensemble_without_captures_says_which_command_makes_them(tmp_path: Path) -> None:
    run, plan = measured_by_an_earlier_version(tmp_path)
    first, *others = KINDS
    client: Any = FakeSource(KINDS[first])
    baselines.capture_held_out(run, plan, first, client, _mark)
    with pytest.raises(ConfigError, match=rf"what source {others[0]} said .* fusery run "):
        baselines.measure_ensemble(run, plan, steps.held_out(run))


def test_nothing_is_missing_where_every_source_was_asked(tmp_path: Path) -> None:
    run, plan = measured_by_an_earlier_version(tmp_path)
    for source, kind in KINDS.items():
        client: Any = FakeSource(kind)
        baselines.capture_held_out(run, plan, source, client, _mark)
    check_measured(run, {source: baselines.capture_names(run, plan, source) for source in KINDS})
    assert run.store.read_note(f"{run.name}/complete.json") == {"promised": "all of it"}

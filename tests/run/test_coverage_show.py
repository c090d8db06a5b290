"""`fusery coverage`: a table per source, JSON for programs, and honest words where there is nothing or half of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusery import cli
from fusery.hops.plan import Hop
from fusery.run.open_run import Run
from fusery.run.show_coverage import show_coverage
from fusery.runtime.errors import ConfigError, Unavailable
from support.runs.coverage_notes import aligned_note, begun, finish, publish
from support.runs.pico_run import write_run


def shown(run: Run, capsys: pytest.CaptureFixture[str]) -> str:
    show_coverage(run.file.path, as_json=False)
    return capsys.readouterr().out


def test_each_source_has_a_table_with_its_domains_as_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run, plan = begun(tmp_path)
    finish(run, plan)
    lines = shown(run, capsys).splitlines()
    assert lines[0] == f"run {run.run_id}: positions boundary, vocabulary partition, top-k 8"
    assert [line for line in lines if line.startswith("source ")] == [
        "source prose, 3 of 3 shards aligned",
        "source code, 3 of 3 shards aligned",
    ]
    rows = [line.split() for line in lines if line.startswith("docs ")]
    assert rows[0] == [
        "docs",
        "100%",
        "80.0%",
        *["80%", "80%", "81%"],
        "100%",
        "0.0%",
        "0.0%",
        "–",
        "0.0%",
        "75.0%",
    ]
    assert "positions with evidence of any source: code 80.0%, docs 80.0%" in lines
    assert not any("warning" in line or "not all" in line for line in lines)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_a_table_fits_the_terminal_and_cuts_no_word(
    columns: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    run, plan = begun(tmp_path)
    long = {"a domain with a name as long as no other": aligned_note(100, [0.8] * 100)}
    finish(run, plan, prose=long)
    out = shown(run, capsys)
    assert max(len(line) for line in out.splitlines()) <= int(columns)
    assert "…" not in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("alignment", "has", "has_not"),
    [
        ({}, ["other", "larger"], ["falls", "nearest", "first"]),
        ({"vocabulary": "exact"}, ["same"], ["other", "larger", "nearest"]),
        ({"positions": "dtw", "vocabulary": "min_ed"}, ["falls", "nearest"], ["other", "larger"]),
        ({"positions": "reference"}, ["falls", "nearest"], ["other", "larger"]),
    ],
)
def test_columns_are_those_that_the_rules_can_fill(
    alignment: dict[str, str],
    has: list[str],
    has_not: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, plan = begun(tmp_path, alignment=alignment)
    finish(run, plan)
    head = shown(run, capsys).partition("source code")[0].partition("aligned")[2].partition("docs")[0].split()
    assert set(has) <= set(head)
    assert not set(has_not) & set(head)


def test_half_a_run_shows_its_half_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, plan = begun(tmp_path)
    publish(run.store, plan, Hop.ALIGN, "prose", [{"docs": aligned_note(10, [0.9] * 10)}])
    out = shown(run, capsys)
    assert "not all is there yet: 0 of 3 shards are fused" in out
    assert "source prose, 1 of 3 shards aligned" in out
    assert "source code, 0 of 3 shards aligned" in out
    [row] = [line.split() for line in out.splitlines() if line.startswith("docs ")]
    assert row[-1] == "–"


def test_json_has_all_of_it_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, plan = begun(tmp_path)
    finish(run, plan, code={"docs": aligned_note(100, []), "code": aligned_note(0, [])})
    show_coverage(run.file.path, as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert content["run_id"] == run.run_id
    assert content["shards"] == {"total": 3, "aligned": {"prose": 3, "code": 3}, "fused": 3}
    assert content["sources"]["prose"]["docs"]["evidence_share"] == 0.75
    assert len(content["sources"]["prose"]["docs"]["kept_mass_deciles"]) == 9
    assert content["sources"]["code"]["code"]["positions"] is None
    assert content["any_source"] == {"docs": 0.8, "code": 0.8}
    assert content["floors"] == {"positions_floor": 0.5, "mass_floor": 0.5}
    [warning] = content["warnings"]
    assert (warning["source"], warning["domain"], warning["value"]) == ("code", "docs", 0.0)
    assert warning["text"].startswith("source code, domain docs: evidence at 0.0%")


def test_text_that_no_source_covers_stands_in_the_table_with_its_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, plan = begun(tmp_path)
    finish(run, plan, code={"docs": aligned_note(100, [])})
    out = shown(run, capsys)
    row = next(line.split() for line in out.partition("source code")[2].splitlines() if line.startswith("docs "))
    assert row == ["docs", "0.0%", *["–"] * 7, "25.0%"]
    [warning] = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: source code, domain docs: evidence at 0.0% of the target's positions, under")


def test_floors_of_the_yaml_decide_what_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, plan = begun(tmp_path, coverage={"positions_floor": 1, "mass_floor": 0.9})
    finish(run, plan)
    out = shown(run, capsys)
    assert out.count("warning: ") == 4
    assert "80.0% of the mass is kept on average, under coverage.mass_floor 90.0%" in out


def test_a_run_that_has_not_begun_says_how_to_begin(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    with pytest.raises(ConfigError, match=f"has no plan yet; start it with: fusery run {file}"):
        show_coverage(file, as_json=False)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_without_an_aligned_shard_says_so_and_what_to_do(tmp_path: Path, as_json: bool) -> None:
    run, _ = begun(tmp_path)
    says = f"has no aligned shard yet, of 3 for each of 2 sources; .* go on with: fusery run {run.file.path}"
    with pytest.raises(Unavailable, match=says):
        show_coverage(run.file.path, as_json=as_json)


def test_the_command_ends_with_the_exit_code_of_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, plan = begun(tmp_path)
    assert cli.main(["coverage", str(run.file.path)]) == 1
    assert "fusery coverage: run" in capsys.readouterr().err
    finish(run, plan)
    assert cli.main(["coverage", str(run.file.path), "--json"]) == 0
    run.file.path.write_text(run.file.path.read_text() + "coverage: {positions_flor: 0.5}\n")
    assert cli.main(["coverage", str(run.file.path)]) == 2
    assert "coverage.positions_flor: unknown key; did you mean 'positions_floor'?" in capsys.readouterr().err


def test_names_that_look_like_mark_up_stay_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, plan = begun(tmp_path)
    finish(run, plan, prose={"[bold]x[/]": aligned_note(100, [0.1] * 10)})
    out = shown(run, capsys)
    assert "[bold]x[/]" in out
    assert "domain [bold]x[/]: evidence at 10.0%" in out

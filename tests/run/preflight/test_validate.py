"""`fusery validate`, through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusery import cli
from fusery.run.open_run import open_run
from support.runs.pico_run import HELD_OUT_DOCUMENTS, TRAIN_DOCUMENTS, write_run
from support.runs.refusals import assert_nothing_was_done


def test_validate_tells_what_a_good_run_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_run(tmp_path)
    assert cli.main(["validate", str(file)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    first, *rest = shown.out.splitlines()
    assert first == f"{file}: valid; run {open_run(file).run_id}"
    assert "  2 sources, target models/target" in rest
    assert f"  {TRAIN_DOCUMENTS} training documents in 3 shards, {HELD_OUT_DOCUMENTS} held out" in rest
    assert_nothing_was_done(file)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"capture": {"top_k": 500}}, "capture.top_k is 500, source code gives at most"),
        ({"training": {"sequence_length": 4096}}, "training.sequence_length is 4096"),
        ({"corpus": {"held_out": [{"path": "nowhere.jsonl"}]}}, "nowhere.jsonl: no such file"),
        ({"sources": [{"name": "x", "model": "./nowhere"}]}, "model './nowhere': there is no folder"),
        ({"services": {"broker_url": "amqp://host"}}, "broker amqp://host: not an address of a Redis server"),
    ],
)
def test_validate_tells_what_is_wrong_in_one_line_with_exit_code_2(
    tmp_path: Path, sections: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_run(tmp_path, **sections)
    assert cli.main(["validate", str(file)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert line.startswith("fusery validate: ")
    assert says in line
    assert_nothing_was_done(file)


def test_validate_offline_asks_no_address(tmp_path: Path, closed: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_run(
        tmp_path,
        sources=[{"name": "far", "model": "x/y", "address": closed}],
        services={"broker_url": f"redis://{closed}"},
    )
    assert cli.main(["validate", str(file), "--offline"]) == 0
    assert "valid; run pico-" in capsys.readouterr().out
    assert not (tmp_path / "store").exists()

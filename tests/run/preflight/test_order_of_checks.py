"""Mistakes that need no model are found before any model is looked at; a default is never a mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fusery import cli
from fusery.config.sections import TrainingSpec
from fusery.models.checkpoint import NO_CONTEXT_LIMIT, stated_context_length
from fusery.run.open_run import open_run
from fusery.run.preflight.checks import check_run
from support.models.pico_models import ARCHITECTURES, CONTEXT_LENGTH, pico_model
from support.runs.pico_run import write_run

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a key": ({"trainig": {}}, "trainig"),
    "a value": ({"training": {"clm_weight": 2}}, "clm_weight"),
    "a corpus path": ({"corpus": {"held_out": [{"path": "nowhere.jsonl"}]}}, "nowhere.jsonl: no such file"),
    "a source's name": ({"sources": [{"name": "target", "model": "models/code"}]}, "the name 'target' is kept"),
    "a name for MLflow": ({"registry": {"enabled": True, "model_name": "a/b"}}, "model_name"),
    "a port": ({"sources": [{"name": "far", "model": "x/y", "address": "localhost:99999"}]}, "99999"),
    "a licence": ({"registry": {"accept_licenses": ["nothing-like-it"]}}, "accepted licence 'nothing-like-it'"),
    "a task": ({"evaluation": {"tasks": ["commonsens"]}}, "commonsens"),
    "a baseline": ({"gate": {"better_than": ["source:nobody"]}}, "source:nobody"),
    "a broker": ({"services": {"broker_url": "amqp://host"}}, "broker amqp://host"),
    "a store": ({"services": {"store": "memory://x"}}, "every process has a memory of its own"),
    "a sequence": ({"training": {"sequence_length": 4096}}, "training.sequence_length is 4096"),
}


@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize(("sections", "says"), MISTAKES.values(), ids=list(MISTAKES))
def test_what_needs_no_model_is_said_before_any_model_is_looked_at(
    tmp_path: Path,
    command: str,
    sections: dict[str, Any],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def looked_at(*_: object) -> None:
        raise AssertionError("a model was looked at")

    monkeypatch.setattr("fusery.run.preflight.checks.inspect_checkpoint", looked_at)
    file = write_run(tmp_path, **sections)
    assert cli.main([command, str(file)]) == 2
    assert says in capsys.readouterr().err


def test_a_licence_that_forbids_the_run_is_said_before_any_model_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fusery.run.preflight.checks.inspect_checkpoint", None)
    file = write_run(tmp_path)
    (tmp_path / "models/code/README.md").write_text("---\nlicense: llama2\n---\n")
    assert cli.main(["validate", str(file)]) == 2
    assert "licences whose terms forbid this run" in capsys.readouterr().err


def test_a_domain_without_held_out_text_is_said_before_any_model_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fusery.run.preflight.checks.inspect_checkpoint", None)
    file = write_run(tmp_path)
    with (tmp_path / "corpus/train.jsonl").open("a") as stream:
        stream.write(json.dumps({"text": "A domain that nobody measures.", "domain": "other"}) + "\n")
    assert cli.main(["validate", str(file)]) == 2
    assert "domain 'other' without held-out text" in capsys.readouterr().err


def test_the_default_sequence_is_the_targets_context_where_that_is_shorter(tmp_path: Path) -> None:
    file = write_run(tmp_path, training={"sequence_length": None})
    run = open_run(file)
    assert run.config.training.sequence_length is None
    assert check_run(run).context_length == CONTEXT_LENGTH


@pytest.mark.parametrize(
    ("given", "context", "tokens"),
    [(None, 512, 512), (None, 2048, 2048), (None, 8192, 2048), (None, NO_CONTEXT_LIMIT, 2048), (300, 512, 300)],
)
def test_the_tokens_of_a_sequence(given: int | None, context: int, tokens: int) -> None:
    assert TrainingSpec(sequence_length=given).sequence_tokens(context) == tokens


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_context_is_read_off_the_config_of_every_architecture(architecture: str) -> None:
    assert stated_context_length(str(pico_model(architecture))) == CONTEXT_LENGTH


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"text_config": {"max_position_embeddings": 77}}, 77),
        ({}, NO_CONTEXT_LIMIT),
        ({"n_positions": None}, NO_CONTEXT_LIMIT),
    ],
)
def test_a_context_that_the_config_does_not_state_is_left_to_transformers(
    tmp_path: Path, config: dict[str, Any], expected: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", **config}))
    assert stated_context_length(str(tmp_path)) == expected
    assert stated_context_length("owner/name") == NO_CONTEXT_LIMIT

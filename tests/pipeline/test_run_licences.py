"""Licences of a run: refused before any work with what to accept, and what was accepted is kept with the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusery.errors import ConfigError
from fusery.pipeline.licences import accept_licences, check_licences, run_licences
from fusery.pipeline.preflight import Run, open_run
from picorun import write_run


def run_of(folder: Path, licences: dict[str, str | None], **sections: Any) -> Run:
    """A run whose models' cards state `licences`; the others are free."""
    file = write_run(folder, **sections)
    for role, licence in licences.items():
        card = folder / "models" / role / "README.md"
        card.write_text("" if licence is None else f"---\nlicense: {licence}\n---\n")
    return open_run(file)


def test_free_licences_need_no_word(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"target": "mit"})
    check_licences(run)
    assert run_licences(run).of_result == ("mit", None)


def test_conditions_are_refused_with_the_command_that_accepts_them(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": "gemma", "prose": None})
    with pytest.raises(ConfigError, match="nothing was begun") as error:
        check_licences(run)
    lines = str(error.value).splitlines()
    assert lines[1].startswith("  source prose (unknown): no `license` in its README.md")
    assert lines[2].startswith("  source code (gemma): a model trained on Gemma's outputs is a Model Derivative")
    assert lines[3].endswith("run.yaml --accept-license prose --accept-license gemma")
    assert lines[4] == "or in the YAML: registry: {accept_licenses: [prose, gemma]}"


def test_what_was_accepted_once_is_kept_with_the_run_and_its_time(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": "gemma", "prose": None})
    accept_licences(run, ["gemma"])
    with pytest.raises(ConfigError, match="accept-license prose\n"):
        check_licences(run)
    accept_licences(run, ["prose"])
    check_licences(open_run(run.file.path))
    found = run_licences(run)
    assert sorted(found.accepted) == ["gemma", "prose"]
    assert found.accepted["gemma"].endswith("+00:00")
    assert found.of_result == ("other", "unknown-and-gemma")


def test_the_yaml_may_accept_too_and_makes_no_other_run(tmp_path: Path) -> None:
    plain = run_of(tmp_path / "a", {"code": "gemma"})
    accepting = run_of(tmp_path / "b", {"code": "gemma"}, registry={"accept_licenses": ["gemma"]})
    check_licences(accepting)
    assert run_licences(accepting).accepted == {"gemma": "in the YAML"}
    assert accepting.run_id == plain.run_id


def test_accepting_what_no_model_has_is_a_mistake_with_the_nearest_name(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", {"code": "gemma"})
    with pytest.raises(ConfigError, match=r"'gema': no model of the run has it; did you mean 'gemma'\? known: "):
        accept_licences(run, ["gema"])
    with pytest.raises(ConfigError, match="'llama2': no model of the run has it"):
        check_licences(run_of(tmp_path / "b", {}, registry={"accept_licenses": ["llama2"]}))


def test_a_source_that_others_serve_has_an_unknown_licence_unless_its_files_are_here(tmp_path: Path) -> None:
    far = {"name": "far", "model": "served/elsewhere", "address": "127.0.0.1:1"}
    near = {"name": "near", "model": "models/target", "address": "127.0.0.1:1"}
    run = run_of(tmp_path, {}, sources=[far, near], registry={"accept_licenses": []})
    with pytest.raises(ConfigError, match="source far \\(unknown\\)") as error:
        check_licences(run)
    assert "source near" not in str(error.value)


def test_an_inference_server_states_no_licence_but_its_tokenizers_folder_may(tmp_path: Path) -> None:
    bare = {"name": "bare", "model": "tgi:http://127.0.0.1:1"}
    with_tokenizer = {"name": "known", "model": "vllm:http://127.0.0.1:1", "tokenizer": "models/target"}
    run = run_of(tmp_path, {"target": "apache-2.0"}, sources=[bare, with_tokenizer])
    by_role = {model.role: model for model in run_licences(run).models}
    assert by_role["bare"].licence is None
    assert "says nothing of a licence" in by_role["bare"].found_in
    assert by_role["known"].licence == "apache-2.0"

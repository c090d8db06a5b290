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
    assert lines[3].endswith("run.yaml --accept-license source:prose --accept-license gemma")
    assert lines[4] == "or in the YAML: registry: {accept_licenses: [source:prose, gemma]}"


def test_what_was_accepted_once_is_kept_with_the_run_and_its_time(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": "gemma", "prose": None})
    accept_licences(run, ["gemma"])
    with pytest.raises(ConfigError, match="accept-license source:prose\n"):
        check_licences(run)
    accept_licences(run, ["source:prose"])
    check_licences(open_run(run.file.path))
    found = run_licences(run)
    assert sorted(found.accepted) == ["gemma", "source:prose"]
    assert found.accepted["gemma"].endswith("+00:00")
    assert found.of_result == ("other", "unknown-and-gemma")


def test_the_yaml_may_accept_too_and_makes_no_other_run(tmp_path: Path) -> None:
    plain = run_of(tmp_path / "a", {"code": "gemma"})
    accepting = run_of(tmp_path / "b", {"code": "gemma"}, registry={"accept_licenses": ["gemma"]})
    check_licences(accepting)
    assert run_licences(accepting).accepted == {"gemma": "in the YAML"}
    assert accepting.run_id == plain.run_id


def test_a_bare_name_that_was_noted_or_stands_in_the_yaml_means_the_source(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": None, "prose": None}, registry={"accept_licenses": ["prose"]})
    run.store.write_note(f"{run.name}/licences.json", {"accepted": {"code": "before"}})
    check_licences(run)
    assert run_licences(run).accepted == {"source:prose": "in the YAML", "source:code": "before"}


def test_what_was_accepted_unknown_is_asked_again_when_the_licence_is_known(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": None})
    accept_licences(run, ["source:code"])
    check_licences(run)
    (tmp_path / "models/code/README.md").write_text("---\nlicense: gemma\n---\n")
    with pytest.raises(ConfigError, match="--accept-license gemma\n"):
        check_licences(run)


def test_a_source_that_is_called_as_a_licence_is_not_accepted_by_it(tmp_path: Path) -> None:
    sources = {"gemma": ("gpt_neox", "byte_level"), "prose": ("llama", "sentencepiece")}
    run = run_of(tmp_path, {"gemma": "llama2", "prose": "gemma"}, sources=sources)
    accept_licences(run, ["gemma"])
    with pytest.raises(ConfigError, match=r"source gemma \(llama2\)") as error:
        check_licences(run)
    assert "source prose" not in str(error.value)


@pytest.mark.parametrize("name", ["target", "unknown"])
def test_names_that_mean_something_else_are_refused_for_sources(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"sources: the name '{name}' is kept for what is no source"):
        run_of(tmp_path, {}, sources=[{"name": name, "model": "models/target"}])


def test_a_name_for_short_that_a_licence_has_too_is_a_mistake_with_the_whole_name(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"gemma": None}, sources={"gemma": ("gpt_neox", "byte_level")})
    with pytest.raises(ConfigError, match=r"did you mean 'source:gemma'\?"):
        accept_licences(run, ["gemma"])
    accept_licences(run, ["source:gemma"])
    check_licences(run)


def test_a_list_in_the_card_asks_for_what_binds(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": "[apache-2.0, llama2]", "prose": "[mit, other]"})
    with pytest.raises(ConfigError, match="licences with conditions") as error:
        check_licences(run)
    assert "source code (llama2)" in str(error.value)
    assert "source prose (unknown): README.md" in str(error.value)


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


def test_a_password_in_the_name_of_a_model_that_others_serve_is_not_shown(tmp_path: Path) -> None:
    far = {"name": "far", "model": "tgi:http://mia:secret@gpu:8000", "address": "127.0.0.1:1"}
    (_, model) = run_licences(run_of(tmp_path, {}, sources=[far])).models
    assert model.model == "tgi:http://***@gpu:8000"
    assert "secret" not in repr(model)


def test_an_inference_server_states_no_licence_but_its_tokenizers_folder_may(tmp_path: Path) -> None:
    bare = {"name": "bare", "model": "tgi:http://127.0.0.1:1"}
    with_tokenizer = {"name": "known", "model": "vllm:http://127.0.0.1:1", "tokenizer": "models/target"}
    run = run_of(tmp_path, {"target": "apache-2.0"}, sources=[bare, with_tokenizer])
    by_role = {model.role: model for model in run_licences(run).models}
    assert by_role["bare"].licence is None
    assert "says nothing of a licence" in by_role["bare"].found_in
    assert by_role["known"].licence == "apache-2.0"

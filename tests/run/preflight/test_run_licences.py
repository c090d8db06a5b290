"""Licences of a run: conditions are warned of, what forbids is refused, and what was accepted is kept with the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusery import cli
from fusery.registry.licences import accept_licences, check_licences, run_licences
from fusery.run.open_run import Run, open_run
from fusery.runtime.errors import ConfigError
from support.runs.pico_run import write_run


def run_of(folder: Path, licences: dict[str, str | None], **sections: Any) -> Run:
    """A run whose models' cards state `licences`; the others are free."""
    file = write_run(folder, **sections)
    for role, licence in licences.items():
        card = folder / "models" / role / "README.md"
        card.write_text("" if licence is None else f"---\nlicense: {licence}\n---\n")
    return open_run(file)


def test_free_licences_need_no_word(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"target": "mit"})
    assert check_licences(run) == []
    assert run_licences(run).of_result == ("mit", None)


def test_conditions_and_what_is_not_known_are_warned_of_and_recorded(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": "gemma", "prose": None})
    of_prose, of_code = check_licences(run)
    assert of_prose.startswith("licence of source prose (unknown): no `license` in its README.md")
    assert of_code.startswith("licence of source code (gemma): a model trained on Gemma's outputs is a")
    assert run_licences(run).of_result == ("other", "unknown-and-gemma")


def test_validate_warns_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, {"code": None})
    assert cli.main(["validate", str(run.file.path)]) == 0
    assert "warning: licence of source code (unknown): no `license` in its README.md" in capsys.readouterr().out


def test_what_the_terms_forbid_is_refused_with_the_command_that_accepts_it(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": "llama2", "prose": "gemma"})
    with pytest.raises(ConfigError, match="terms forbid this run; nothing was begun") as error:
        check_licences(run)
    lines = str(error.value).splitlines()
    assert lines[1].startswith("  source code (llama2): Llama 2 and its outputs may not be used to improve any other")
    assert lines[2].startswith("leave these sources out; if you have other terms: ")
    assert lines[2].endswith("run.yaml --accept-license llama2")
    assert lines[3] == "or in the YAML: registry: {accept_licenses: [llama2]}"
    accept_licences(run, ["llama2"])
    assert [line.split(":")[0] for line in check_licences(run)] == ["licence of source prose (gemma)"]


def test_what_was_accepted_once_is_kept_with_the_run_and_its_time(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": "gemma", "prose": None})
    accept_licences(run, ["gemma"])
    accept_licences(run, ["source:prose"])
    assert check_licences(open_run(run.file.path)) == []
    found = run_licences(run)
    assert sorted(found.accepted) == ["gemma", "source:prose"]
    assert found.accepted["gemma"].endswith("+00:00")
    assert [found.accepted_of(model) is None for model in found.models] == [True, False, False]


def test_the_yaml_may_accept_too_and_makes_no_other_run(tmp_path: Path) -> None:
    plain = run_of(tmp_path / "a", {"code": "llama3"})
    accepting = run_of(tmp_path / "b", {"code": "llama3"}, registry={"accept_licenses": ["llama3"]})
    assert check_licences(accepting) == []
    assert run_licences(accepting).accepted == {"llama3": "in the YAML"}
    assert accepting.run_id == plain.run_id


def test_a_bare_name_that_was_noted_or_stands_in_the_yaml_means_the_source(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": None, "prose": None}, registry={"accept_licenses": ["prose"]})
    run.store.write_note(f"{run.name}/licences.json", {"accepted": {"code": "before"}})
    assert check_licences(run) == []
    assert run_licences(run).accepted == {"source:prose": "in the YAML", "source:code": "before"}


def test_a_source_that_was_accepted_unknown_is_refused_when_its_licence_is_known_to_forbid(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": None})
    accept_licences(run, ["source:code"])
    assert check_licences(run) == []
    (tmp_path / "models/code/README.md").write_text("---\nlicense: llama2\n---\n")
    with pytest.raises(ConfigError, match="--accept-license llama2\n"):
        check_licences(run)


def test_several_licences_that_were_accepted_under_one_name_before_are_accepted(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": "[gemma, llama2]"})
    run.store.write_note(f"{run.name}/licences.json", {"accepted": {"gemma-and-llama2": "before"}})
    assert check_licences(run) == []


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
    assert check_licences(run) == []


def test_a_list_in_the_card_asks_for_what_binds(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"code": "[apache-2.0, gemma]", "prose": "[mit, other]"})
    of_prose, of_code = check_licences(run)
    assert of_code.startswith("licence of source code (gemma): ")
    assert of_prose.startswith("licence of source prose (unknown): README.md: fusery does not know these terms")


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
    (warning,) = check_licences(run)
    assert warning.startswith("licence of source far (unknown)")


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
    assert by_role["bare"].stated == (None,)
    assert "says nothing of a licence" in by_role["bare"].found_in
    assert by_role["known"].id == "apache-2.0"

"""A run that is registered more than once: after a crash, measured, judged or trained anew; and whose the alias is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusery.registry import register as register_module
from fusery.registry.promote import version_of_run
from fusery.runtime.errors import Unavailable
from fusery.runtime.text.domain_names import name_of
from support.runs.registrations import Make, Registration, measured, other_weights, with_task

ODD_DOMAINS = [
    "https://example.org/a",
    "/r/name",
    "C#",
    "C+",
    "mean",
    "Mean",
    "a",
    "a ",
    "..",
    "新闻",
    "x" * 300,
    "\x1b[m\n",
]
NO_STEPS: dict[str, Any] = {"metrics_files": {"fused": None, "clm": None}}

# MLflow and what it imports warn about each other's future.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def registration(tmp_path_factory: pytest.TempPathFactory, make_record: Make) -> Registration:
    return Registration(tmp_path_factory.mktemp("registry"), make_record)


def test_the_same_run_is_registered_once(registration: Registration) -> None:
    again = registration.register()
    assert again == replace(registration.registered, created=False)
    assert len(registration.runs()) == 1
    assert len(registration.client.search_model_versions("name = 'tiny'")) == 1


def test_an_alias_that_people_moved_stays_where_they_put_it(registration: Registration) -> None:
    registration.client.delete_registered_model_alias("tiny", "candidate")
    again = registration.register()
    assert "candidate" not in registration.client.get_registered_model("tiny").aliases
    assert (again.alias, again.remark) == (
        None,
        "the gate passed, and the alias 'candidate' was not moved here: no version has it: it was taken away",
    )
    registration.client.set_registered_model_alias("tiny", "candidate", "1")


def test_an_alias_that_a_crash_left_out_is_set_by_the_next_call(registration: Registration) -> None:
    registration.client.delete_registered_model_alias("tiny", "candidate")
    registration.client.delete_model_version_tag("tiny", "1", "fusery.complete")
    assert not registration.register().created
    assert int(registration.client.get_registered_model("tiny").aliases["candidate"]) == 1


def test_a_registration_that_was_cut_off_is_made_whole_by_the_next_call(
    registration: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*arguments: object) -> None:
        raise ConnectionError("connection reset")

    with monkeypatch.context() as broken:
        broken.setattr(register_module, "_log_model", gone)
        command = f"fusery register {registration.record.config_file}"
        kept = f"the model is kept at {registration.record.model_folder}; register it with: {command}"
        with pytest.raises(Unavailable, match="connection reset") as error:
            registration.register(run_id="other-1", model_name="other")
        assert str(error.value).endswith(kept)
    (cut_off,) = [run for run in registration.runs() if run.data.tags["fusery.run_id"] == "other-1"]
    assert cut_off.info.status == "FAILED"
    registration.client.update_run(cut_off.info.run_id, "RUNNING")

    assert registration.register(run_id="other-1", model_name="other").created
    runs = [run for run in registration.runs() if run.data.tags["fusery.run_id"] == "other-1"]
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]


def test_a_failed_gate_registers_with_its_reasons_and_without_an_alias(registration: Registration) -> None:
    failed = registration.register(run_id="gate-1", model_name="gated", **measured(registration, passed=False))
    assert (failed.version, failed.alias, failed.alias_uri) == ("1", None, None)
    assert registration.client.get_registered_model("gated").aliases == {}
    tags = registration.client.get_model_version("gated", "1").tags
    assert tags["fusery.gate"] == "failed"
    assert tags["fusery.gate_reasons"].startswith("Gate failed. Not held: fewer bits per byte than CLM: −4.3 %")

    passed = registration.register(run_id="gate-1", model_name="gated", **measured(registration, passed=True))
    assert (passed.version, passed.alias, passed.created) == ("1", "candidate", False)
    version = registration.client.get_model_version_by_alias("gated", "candidate")
    assert (version.tags["fusery.gate"], "Gate passed." in version.description) == ("passed", True)

    again = registration.register(run_id="gate-1", model_name="gated", **measured(registration, passed=False))
    assert again.alias is None
    assert registration.client.get_registered_model("gated").aliases == {}


def test_measures_without_a_verdict_are_no_proof(registration: Registration) -> None:
    evaluation = {key: value for key, value in registration.record.evaluation.items() if key != "verdict"}
    assert not replace(registration.record, evaluation=evaluation).passed


def test_weights_that_were_trained_again_are_another_version_with_a_proof_of_their_own(
    registration: Registration, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    first = registration.register(run_id="again-1", model_name="again", **NO_STEPS)
    trained = other_weights(tmp_path / "model", registration.record.model_folder)
    better = measured(registration, passed=True, fused=1.0)
    second = registration.register(run_id="again-1", model_name="again", model_folder=trained, **better, **NO_STEPS)
    assert (second.version, second.created, second.alias) == ("2", True, "candidate")
    assert second.run_id != first.run_id
    versions = [registration.client.get_model_version("again", number) for number in ("1", "2")]
    assert ["fused 1.0000" in version.description for version in versions] == [False, True]
    folder = Path(registration.client.download_artifacts(second.run_id, "", str(tmp_path)))
    assert json.loads((folder / "evaluation.json").read_text()) == better["evaluation"]
    stored = registration.model_file("again", "2", tmp_path / "stored")
    ours = load_file(trained / "model.safetensors")
    assert all(tensor.equal(ours[name]) for name, tensor in load_file(stored).items())

    unchanged = registration.register(run_id="again-1", model_name="again", model_folder=trained, **better, **NO_STEPS)
    assert unchanged == replace(second, created=False)
    assert version_of_run("again", "again-1", registration.uri) == "2"


def test_an_alias_does_not_move_back_to_an_older_version_and_what_is_said_is_what_is(
    registration: Registration,
) -> None:
    def register(run_id: str, **changes: Any) -> tuple[str, str | None, str]:
        done = registration.register(run_id=run_id, model_name="moved", **NO_STEPS, **changes)
        return done.version, done.alias_uri, done.remark

    stays = "the gate passed, and the alias 'candidate' was not moved here: it stays at version 2"
    assert register("moved-1") == ("1", "models:/moved@candidate", "")
    assert register("moved-2") == ("2", "models:/moved@candidate", "")
    assert register("moved-1") == ("1", None, stays)
    assert register("moved-1", **with_task(registration)) == ("1", None, stays)
    aliases = registration.client.get_registered_model("moved").aliases
    assert {alias: int(number) for alias, number in aliases.items()} == {"candidate": 2}

    assert register("moved-1", alias="prod") == ("1", "models:/moved@prod", "")
    assert int(registration.client.get_model_version_by_alias("moved", "prod").version) == 1


def test_what_is_no_longer_measured_is_no_number_and_all_else_stays(registration: Registration) -> None:
    change = {"run_id": "less-1", "model_name": "less"}
    run_id = registration.register(**change, **with_task(registration)).run_id
    registration.client.log_metric(run_id, "of a person", 3.0)
    assert registration.client.get_run(run_id).data.metrics["task/fused/arc_easy"] == 0.5

    evaluation = dict(registration.record.evaluation) | {"warnings": []}
    again = registration.register(**change, evaluation=evaluation)
    assert (again.run_id, again.created) == (run_id, False)
    run, version = registration.client.get_run(run_id), registration.client.get_model_version("less", "1")
    assert math.isnan(run.data.metrics["task/fused/arc_easy"])
    assert (run.data.metrics["of a person"], run.data.metrics["bits_per_byte/fused/code"]) == (3.0, 2.1)
    assert "fusery.coverage_warnings" not in {**version.tags, **run.data.tags}

    registration.register(**change, **with_task(registration))
    assert registration.client.get_run(run_id).data.metrics["task/fused/arc_easy"] == 0.5


def test_domains_of_any_name_are_registered_each_with_its_metric(registration: Registration) -> None:
    domains = {name: {"bits_per_byte": float(place)} for place, name in enumerate(ODD_DOMAINS)}
    evaluation = dict(registration.record.evaluation) | {"coverage": {}, "wins": {}}
    evaluation["models"] = {"fused": {"mean_bits_per_byte": 99.0, "domains": domains}}
    again = registration.register(run_id="odd-1", model_name="odd", evaluation=evaluation, **NO_STEPS)
    metrics = registration.client.get_run(again.run_id).data.metrics
    prefix = "bits_per_byte/fused/"
    found = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    assert found.pop("mean") == 99.0
    assert {name_of(part, ODD_DOMAINS): value for part, value in found.items()} == {
        name: scores["bits_per_byte"] for name, scores in domains.items()
    }

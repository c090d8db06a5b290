"""One real registration in SQLite, read back through MLflow's own API; and what happens when things go wrong."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusery.errors import AddressError, InvalidInput, Unavailable
from fusery.registry import register as register_module
from fusery.registry.promote import Promoted, Promotion, promote, version_of_run
from fusery.registry.record import FusionRecord, Registered
from fusery.registry.register import register
from fusery.registry.session import session
from fusery.registry.tracking import default_artifact_folder, default_tracking_uri
from picomodels import pico_model

Make = Callable[..., FusionRecord]

# MLflow and what it imports warn about each other's future.
pytestmark = pytest.mark.filterwarnings("ignore")


class Registration:
    """A record registered once for all tests of this file, and a client to look at what came of it."""

    def __init__(self, folder: Path, make_record: Make) -> None:
        import torch

        torch.set_num_threads(1)
        self.record = make_record(folder, pico_model("llama", "byte_level"))
        self.uri = default_tracking_uri(folder / "store of runs")
        self.artifacts = default_artifact_folder(folder / "store of runs")
        self.registered = self.register()

    def register(self, **changes: Any) -> Registered:
        return register(replace(self.record, **changes), self.uri, self.artifacts)

    @property
    def client(self) -> Any:
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        return mlflow.MlflowClient(self.uri)

    @property
    def run(self) -> Any:
        return self.client.get_run(self.registered.run_id)

    def runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name("fusions")
        return list(self.client.search_runs([experiment.experiment_id]))


@pytest.fixture(scope="module")
def registration(tmp_path_factory: pytest.TempPathFactory, make_record: Make) -> Registration:
    return Registration(tmp_path_factory.mktemp("registry"), make_record)


def test_the_alias_loads_a_model_that_generates_text_with_the_same_weights(registration: Registration) -> None:
    import mlflow
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert registration.client is not None
    generate = mlflow.transformers.load_model(registration.registered.alias_uri)
    folder = registration.record.model_folder
    original = AutoModelForCausalLM.from_pretrained(folder)
    weights = generate.model.state_dict()
    assert weights.keys() == original.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in original.state_dict().items())
    text = "def fuse(sources, naïve 東京"
    assert generate.tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    generated = generate("def fuse(", max_new_tokens=3, do_sample=False)[0]["generated_text"]
    assert generated.startswith("def fuse(")
    assert len(generated) > len("def fuse(")


def test_a_version_has_an_alias_a_description_and_its_lineage(registration: Registration) -> None:
    version = registration.client.get_model_version_by_alias("tiny", "candidate")
    assert registration.registered == Registered(
        "tiny", "1", registration.run.info.run_id, "models:/tiny/1", "candidate", True
    )
    assert version.run_id == registration.registered.run_id
    assert version.tags["fusery.run_id"] == "tiny-0123456789"
    assert version.tags["fusery.sources"] == "coder=3fa9"
    assert "Mean bits per byte" in version.description


def test_the_run_is_finished_and_has_params_and_lineage(registration: Registration) -> None:
    run = registration.run
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    assert run.data.params["training.clm_weight"] == "0.9"
    assert run.data.params["none"] == "None"
    assert run.data.params["long"] == "x" * 5999 + "…"
    assert run.data.tags["fusery.corpus"] == "b01c"


def test_every_step_of_both_trainings_is_logged_at_its_time(registration: Registration) -> None:
    run_id = registration.registered.run_id
    fused = registration.client.get_metric_history(run_id, "train/fused/clm_nats")
    clm = registration.client.get_metric_history(run_id, "train/clm/clm_nats")
    assert [metric.step for metric in fused] == list(range(1, 351))
    assert [metric.value for metric in clm[:3]] == [3.0, 1.5, 1.0]
    assert fused[-1].timestamp - fused[0].timestamp == 349_000


def test_final_metrics_are_bits_per_byte_of_every_model_and_domain_and_the_gains(registration: Registration) -> None:
    metrics = registration.run.data.metrics
    assert metrics["bits_per_byte/fused/mean"] == pytest.approx(2.2)
    assert metrics["bits_per_byte/fused/code"] == 2.1
    assert metrics["bits_per_byte/source coder/pro_e _x_"] == 3.0
    assert metrics["bits_per_byte/target before/mean"] == pytest.approx(2.5)
    assert metrics["gain/clm"] == metrics["gain/target_before"] == -0.0435


def test_coverage_is_logged_by_source_and_domain_and_what_was_not_measured_is_left_out(
    registration: Registration,
) -> None:
    metrics = registration.run.data.metrics
    assert metrics["coverage/coder/code/positions"] == 0.5
    assert metrics["coverage/coder/code/kept_mass_p10"] == 0.1
    assert metrics["coverage/coder/code/kept_mass_p90"] == 0.9
    assert metrics["evidence_share/coder/code"] == 1.0
    assert [name for name in metrics if name.startswith("coverage/coder/pro")] == ["coverage/coder/pro_e _x_/positions"]


def test_warnings_of_low_coverage_are_a_tag_of_run_and_version(registration: Registration) -> None:
    warnings = "\n".join(registration.record.evaluation["warnings"])
    assert registration.run.data.tags["fusery.coverage_warnings"] == warnings
    version = registration.client.get_model_version_by_alias("tiny", "candidate")
    assert version.tags["fusery.coverage_warnings"] == warnings


def test_without_warnings_there_is_no_tag(registration: Registration) -> None:
    record = replace(registration.record, evaluation=dict(registration.record.evaluation) | {"warnings": []})
    assert "fusery.coverage_warnings" not in register_module._tags(record)


def test_the_table_of_the_evaluation_can_be_looked_at_in_mlflow(registration: Registration) -> None:
    info = registration.run.info
    table = registration.client.load_table(info.experiment_id, "evaluation_table.json", [info.run_id])
    assert list(table.columns) == ["model", "domain", "bits_per_byte"]
    assert table[table.model == "fused"].bits_per_byte.tolist() == [2.1, 2.3, 2.2]


def test_the_downloaded_folder_is_a_plain_model_for_transformers(registration: Registration, tmp_path: Path) -> None:
    import mlflow
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert registration.client is not None
    folder = mlflow.artifacts.download_artifacts("models:/tiny@candidate", dst_path=str(tmp_path))
    original = registration.record.model_folder
    for place in (Path(folder), Path(folder) / "model"):
        model = AutoModelForCausalLM.from_pretrained(place).state_dict()
        wanted = AutoModelForCausalLM.from_pretrained(original).state_dict()
        assert all(torch.equal(model[name], tensor) for name, tensor in wanted.items())
        text = "def fuse(sources, naïve 東京"
        ids = AutoTokenizer.from_pretrained(original)(text)["input_ids"]
        assert AutoTokenizer.from_pretrained(place)(text)["input_ids"] == ids
        assert (place / "README.md").read_text().startswith("---\nlibrary_name: transformers\n")


def test_a_version_says_its_verdict_in_tags_and_metrics(registration: Registration) -> None:
    version = registration.client.get_model_version_by_alias("tiny", "candidate")
    assert version.tags["fusery.gate"] == "passed"
    assert version.tags["fusery.gate_reasons"] == "Gate passed."
    assert version.tags["fusery.architecture"] == "LlamaForCausalLM"
    assert version.tags["coverage"] == "coder 25.0% of positions"
    assert registration.run.data.metrics["gate/passed"] == 1.0


def test_report_config_card_metrics_and_pictures_are_artifacts(registration: Registration, tmp_path: Path) -> None:
    folder = Path(registration.client.download_artifacts(registration.registered.run_id, "", str(tmp_path)))
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "report/report.html",
        "report/gains.png",
        "evaluation.json",
        "evaluation_table.json",
        "config.yaml",
        "model_card.md",
        "metrics-fused.jsonl",
        "metrics-clm.jsonl",
    }
    assert json.loads((folder / "evaluation.json").read_text()) == registration.record.evaluation
    assert (folder / "config.yaml").read_text() == "name: tiny\n"


def test_the_stored_model_is_safetensors_with_requirements_and_an_honest_licence(registration: Registration) -> None:
    (folder,) = registration.artifacts.glob("models/*/artifacts")
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert ".safetensors" in suffixes
    assert not suffixes & {".bin", ".pt", ".pkl", ".pickle", ".py"}
    assert "huggingface.co" not in (folder / "LICENSE.txt").read_text()
    assert (folder / "model_card.md").read_text().strip().startswith("#")
    assert "source coder, `owner/coder`: gemma" in (folder / "LICENSE.txt").read_text()
    requirements = (folder / "requirements.txt").read_text()
    assert "torch==" in requirements
    assert "+cpu" not in requirements
    assert json.loads((folder / "input_example.json").read_text()) == "def fuse("


def test_the_same_run_is_registered_once(registration: Registration) -> None:
    again = registration.register()
    assert again == replace(registration.registered, created=False)
    assert len(registration.runs()) == 1
    assert len(registration.client.search_model_versions("name = 'tiny'")) == 1


def test_an_alias_that_people_moved_stays_where_they_put_it(registration: Registration) -> None:
    registration.client.delete_registered_model_alias("tiny", "candidate")
    registration.register()
    assert "candidate" not in registration.client.get_registered_model("tiny").aliases
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


def test_a_second_run_is_the_next_version_and_takes_the_alias(registration: Registration) -> None:
    second = registration.register(run_id="other-2", model_name="other", metrics_files={"fused": None, "clm": None})
    assert second.model_uri == "models:/other/2"
    assert int(registration.client.get_model_version_by_alias("other", "candidate").version) == 2


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


def test_a_name_with_models_of_another_architecture_is_refused(registration: Registration) -> None:
    other = pico_model("gpt2")
    with pytest.raises(InvalidInput, match=r"version 1 is a LlamaForCausalLM, this run's model is a GPT2LMHeadModel"):
        registration.register(run_id="gpt2-1", model_folder=other)
    assert len(registration.client.search_model_versions("name = 'tiny'")) == 1


def test_a_passed_candidate_becomes_champion_and_the_same_call_changes_nothing(registration: Registration) -> None:
    assert promote(Promotion("tiny"), registration.uri) == Promoted("tiny", "1", None, "passed")
    version = registration.client.get_model_version_by_alias("tiny", "champion")
    promoted_at = version.tags["fusery.promoted_at"]
    promote(Promotion("tiny", "1"), registration.uri)
    version = registration.client.get_model_version_by_alias("tiny", "champion")
    assert version.tags["fusery.promoted_at"] == promoted_at


def test_a_version_that_failed_is_promoted_only_with_a_reason_which_is_kept(registration: Registration) -> None:
    registration.register(run_id="forced-0", model_name="forced")
    promote(Promotion("forced"), registration.uri)
    registration.register(run_id="forced-1", model_name="forced", **measured(registration, passed=False))
    with pytest.raises(InvalidInput, match=r"forced version 2: Gate failed\. Not held: .* --force"):
        promote(Promotion("forced", "2"), registration.uri)
    with pytest.raises(InvalidInput, match="the reason is empty"):
        promote(Promotion("forced", "2", force=" "), registration.uri)
    forced = promote(Promotion("forced", "2", force="for the demo"), registration.uri)
    assert forced == Promoted("forced", "2", "1", "failed")
    version = registration.client.get_model_version_by_alias("forced", "champion")
    assert version.tags["fusery.promoted_because"] == "for the demo"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Promotion("absent"), "absent: no such registered model; there are: "),
        (Promotion("tiny", "99"), "tiny: no version '99'"),
        (Promotion("tiny", candidate_alias="tested"), "no version has the alias 'tested'"),
    ],
)
def test_what_is_not_there_cannot_be_promoted(asked: Promotion, message: str, registration: Registration) -> None:
    with pytest.raises(InvalidInput, match=message):
        promote(asked, registration.uri)


def test_the_version_of_a_run_is_found_by_its_id(registration: Registration) -> None:
    assert version_of_run("tiny", "tiny-0123456789", registration.uri) == "1"
    with pytest.raises(InvalidInput, match="run other is not registered as tiny"):
        version_of_run("tiny", "other", registration.uri)


def measured(registration: Registration, passed: bool) -> dict[str, Any]:
    """A record's evaluation with another verdict."""
    evaluation = dict(registration.record.evaluation)
    checks = [{**check, "passed": passed} for check in evaluation["verdict"]["checks"]]
    return {"evaluation": evaluation | {"verdict": {**evaluation["verdict"], "passed": passed, "checks": checks}}}


def test_a_registration_prints_nothing_and_leaves_the_tracking_uri_alone(
    registration: Registration, capfd: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    mlflow.set_tracking_uri("sqlite:////elsewhere.db")
    registration.register(run_id="other-3", model_name="other", metrics_files={"fused": None, "clm": None})
    assert capfd.readouterr() == ("", "")
    assert mlflow.get_tracking_uri() == "sqlite:////elsewhere.db"


def test_what_mlflow_logs_goes_to_our_log_and_it_neither_phones_nor_unpickles(
    registration: Registration, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    from mlflow.utils.logging_utils import enable_logging, eprint

    with caplog.at_level(logging.DEBUG, "fusery.registry"), session(registration.uri, "what to do"):
        logging.getLogger("mlflow.store.db.utils").warning("Updating database tables")
        eprint("Successfully registered model")  # type: ignore[no-untyped-call]
        enable_logging()  # type: ignore[no-untyped-call]
        logging.getLogger("mlflow.store").warning("Waiting")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", "mlflow.store.db.utils: Updating database tables"),
        ("DEBUG", "mlflow.store: Waiting"),
    ]
    assert capfd.readouterr() == ("", "")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_what_mlflow_refuses_is_invalid_input_and_not_worth_a_retry(registration: Registration) -> None:
    with pytest.raises(InvalidInput, match=r"Invalid alias name.*the model is kept at") as error:
        registration.register(run_id="other-4", model_name="other", alias="not/valid", metrics_files={})
    assert not error.value.retryable


def test_a_server_that_is_gone_is_unavailable_and_worth_a_retry(
    registration: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match=r"register it with: fusery register .*run\.yaml") as error:
        register(registration.record, f"http://mia:secret@127.0.0.1:{port}")
    assert error.value.retryable
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("UNAUTHENTICATED", AddressError),
        ("PERMISSION_DENIED", AddressError),
        ("INVALID_PARAMETER_VALUE", InvalidInput),
        ("INTERNAL_ERROR", Unavailable),
        ("REQUEST_LIMIT_EXCEEDED", Unavailable),
    ],
)
def test_refusals_failures_and_wrong_credentials_are_told_apart(
    code: str, expected: type[Exception], registration: Registration
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos import databricks_pb2

    with pytest.raises(expected, match="no; what to do"), session(registration.uri, "what to do"):
        raise MlflowException("no", error_code=getattr(databricks_pb2, code))

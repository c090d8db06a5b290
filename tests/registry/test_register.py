"""One real registration in SQLite, read back through MLflow's own API; and what happens when things go wrong."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from fusery.registry import register as register_module
from fusery.registry.record import Registered
from fusery.registry.register import register
from fusery.registry.stored_model import generation_signature
from fusery.runtime.errors import InvalidInput, Unavailable
from support.runs.registrations import Make, Registration

# MLflow and what it imports warn about each other's future.
pytestmark = pytest.mark.filterwarnings("ignore")


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


def test_the_trainings_are_named_by_their_runs_which_alone_have_the_steps(registration: Registration) -> None:
    run = registration.run
    assert run.data.tags["fusery.training.fused"] == "f" * 32
    assert "fusery.training.clm" not in run.data.tags
    assert not [name for name in run.data.metrics if name.startswith("train/")]


def test_final_metrics_are_bits_per_byte_of_every_model_and_domain_and_the_gains(registration: Registration) -> None:
    metrics = registration.run.data.metrics
    assert metrics["bits_per_byte/fused/mean"] == pytest.approx(2.2)
    assert metrics["bits_per_byte/fused/code"] == 2.1
    assert metrics["bits_per_byte/source coder/pro:24e :5Bx:5D"] == 3.0
    assert metrics["bits_per_byte/target before/mean"] == pytest.approx(2.5)
    assert metrics["gain/clm"] == metrics["gain/target_before"] == -0.0435


def test_of_each_source_the_means_over_domains_are_logged_and_all_else_stands_in_the_report(
    registration: Registration,
) -> None:
    metrics = registration.run.data.metrics
    assert metrics["sources/coder/positions"] == 0.25
    assert metrics["sources/coder/kept_mass"] == 0.9
    assert metrics["sources/coder/evidence_share"] == 1.0
    groups = {name.partition("/")[0] for name in metrics if not name.startswith("train/")}
    assert sorted(groups) == ["bits_per_byte", "gain", "gate", "sources"], "the order in MLflow's pages"
    assert len([name for name in metrics if name.startswith("sources/")]) == 3


def test_the_run_has_the_versions_description_and_its_data_sets(registration: Registration) -> None:
    version = registration.client.get_model_version_by_alias("tiny", "candidate")
    assert registration.run.data.tags["mlflow.note.content"] == version.description
    assert "mlflow.note.content" not in version.tags
    inputs = {found.dataset.name: found for found in registration.run.inputs.dataset_inputs}
    assert {name: found.dataset.digest for name, found in inputs.items()} == {"corpus": "c" * 36, "held-out": "d" * 36}
    purposes = {name: found.tags[0].value for name, found in inputs.items()}
    assert purposes == {"corpus": "training", "held-out": "evaluation"}


def test_what_is_served_generates_as_many_tokens_as_it_is_asked_for(registration: Registration) -> None:
    """`mlflow models serve` calls this, with `params` of the request."""
    import mlflow

    assert registration.client is not None
    served = mlflow.pyfunc.load_model(registration.registered.model_uri)
    generate = mlflow.transformers.load_model(registration.registered.model_uri)
    for tokens in (1, 4, 16):
        [text] = served.predict("def fuse(", params={"max_new_tokens": tokens})
        assert text == generate("def fuse(", max_new_tokens=tokens, do_sample=False)[0]["generated_text"].strip()
    [usual] = served.predict("def fuse(")
    assert usual == generate("def fuse(", max_new_tokens=128, do_sample=False)[0]["generated_text"].strip()


@pytest.mark.parametrize(
    "chat",
    [
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    ],
)
def test_a_chat_is_refused_and_not_answered_as_if_it_were_text(registration: Registration, chat: object) -> None:
    import mlflow

    assert registration.client is not None
    served = mlflow.pyfunc.load_model(registration.registered.model_uri)
    with pytest.raises(mlflow.exceptions.MlflowException, match="all values must be of string type") as error:
        served.predict(chat)
    assert error.value.get_http_status_code() == 400


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, (128, False, 1.0, 50)),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, (128, True, 0.6, 20)),
        ({"max_new_tokens": 32, "temperature": 1}, (32, False, 1.0, 50)),
        ({"do_sample": "yes", "temperature": None, "top_k": 2.5, "max_new_tokens": True}, (128, False, 1.0, 50)),
    ],
)
def test_defaults_of_the_generation_are_the_models_own_or_modest(
    tmp_path: Path, stated: dict[str, object], expected: tuple[object, ...]
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(stated))
    params = {param.name: param.default for param in generation_signature(tmp_path).params}
    assert tuple(params[name] for name in ("max_new_tokens", "do_sample", "temperature", "top_k")) == expected


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


def test_the_version_has_a_signature_and_an_input_example(registration: Registration) -> None:
    import mlflow

    assert registration.client is not None
    info = mlflow.models.get_model_info("models:/tiny/1")
    assert info.signature is not None
    assert [column.type.name for column in info.signature.inputs] == ["string"]
    assert [column.type.name for column in info.signature.outputs] == ["string"]
    assert {param.name: param.default for param in info.signature.params}["max_new_tokens"] == 128
    assert info.saved_input_example_info is not None
    example = mlflow.models.Model.load("models:/tiny/1").load_input_example()
    assert "def fuse(" in str(example)


def test_a_bucket_that_refuses_is_unavailable_and_the_message_says_where_the_model_is(
    registration: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    registration.client.create_experiment("on a bucket", artifact_location="s3://absent/folder")
    with pytest.raises(
        Unavailable, match="NoCredentialsError: Unable to locate credentials; the model is kept"
    ) as error:
        registration.register(run_id="bucket-1", model_name="bucket", experiment="on a bucket", metrics_files={})
    assert str(error.value).endswith(f"register it with: {registration.record.register_command}")


def test_a_registration_prints_nothing_and_leaves_the_tracking_uri_alone(
    registration: Registration, capfd: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    mlflow.set_tracking_uri("sqlite:////elsewhere.db")
    registration.register(run_id="other-3", model_name="other", metrics_files={"fused": None, "clm": None})
    assert capfd.readouterr() == ("", "")
    assert mlflow.get_tracking_uri() == "sqlite:////elsewhere.db"


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

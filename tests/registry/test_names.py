"""A registered name that is somebody else's, or of another architecture, is refused: early, and again at the end."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fusery.registry.names import check_name_early
from fusery.registry.tracking import default_tracking_uri
from fusery.runtime.errors import InvalidInput
from support.models.pico_models import pico_model
from support.runs.registrations import Make, Registration

# MLflow and what it imports warn about each other's future.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def registration(tmp_path_factory: pytest.TempPathFactory, make_record: Make) -> Registration:
    return Registration(tmp_path_factory.mktemp("registry"), make_record)


def test_a_name_with_models_of_another_architecture_is_refused(registration: Registration) -> None:
    other = pico_model("gpt2")
    with pytest.raises(InvalidInput, match=r"version 1 is a LlamaForCausalLM, this run's model is a GPT2LMHeadModel"):
        registration.register(run_id="gpt2-1", model_folder=other)
    assert len(registration.client.search_model_versions("name = 'tiny'")) == 1


def test_a_name_whose_versions_are_not_fusery_s_is_refused(registration: Registration) -> None:
    registration.client.create_registered_model("foreign")
    registration.client.create_model_version("foreign", "file:///somewhere")
    with pytest.raises(InvalidInput, match=r"version 1 was not registered by fusery.*choose another.*register it with"):
        registration.register(run_id="foreign-1", model_name="foreign")
    with pytest.raises(InvalidInput, match=r"version 1 was not registered by fusery.*Nothing was begun"):
        check_name_early("foreign", "LlamaForCausalLM", "foreign-1", registration.uri)
    assert len(registration.client.search_model_versions("name = 'foreign'")) == 1


def test_another_architecture_is_found_before_any_work_and_the_run_s_own_version_is_none(
    registration: Registration,
) -> None:
    check_name_early("tiny", "LlamaForCausalLM", "tiny-2", registration.uri)
    check_name_early("no such name", "GPT2LMHeadModel", "gpt2-1", registration.uri)
    with pytest.raises(InvalidInput, match=r"is a LlamaForCausalLM, this run's model is a GPT2LMHeadModel"):
        check_name_early("tiny", "GPT2LMHeadModel", "gpt2-1", registration.uri)
    check_name_early("tiny", "GPT2LMHeadModel", registration.record.run_id, registration.uri)


def test_where_there_is_no_mlflow_yet_nothing_is_made(tmp_path: Path) -> None:
    check_name_early("tiny", "LlamaForCausalLM", "tiny-1", default_tracking_uri(tmp_path / "later"))
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_leaves_the_check_for_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    check_name_early("tiny", "LlamaForCausalLM", "tiny-1", f"http://127.0.0.1:{port}")
    assert "the name 'tiny' is looked at again when the model is registered" in caplog.text

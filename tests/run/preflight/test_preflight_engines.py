"""Sources behind inference servers, and sources that do not conform: found out before any capture."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusery.run.local import services
from fusery.run.open_run import open_run
from fusery.run.preflight.checks import check_run
from fusery.runtime.errors import AddressError, ConfigError, CorpusError, FuseryError, ModelError, NoAnswer
from fusery.source.api import Distributions, Document
from fusery.source.engines.transformers import TransformersEngine, load_engine
from support.models.pico_models import pico_model
from support.runs.pico_run import write_run
from support.runs.refusals import refused
from support.source.source_servers import running
from support.source.stand_ins import PicoModel
from support.source.tgi_stand_in import tgi
from support.source.vllm_stand_in import vllm

torch.set_num_threads(1)


@functools.cache
def pico() -> PicoModel:
    folder = pico_model("gpt2", "byte_level")
    return PicoModel(load_engine(str(folder), device="cpu"), folder)


def asked(model: str, **source: Any) -> list[dict[str, Any]]:
    return [{"name": "far", "model": model, "tokenizer": str(pico().folder), **source}]


def test_a_source_behind_either_inference_server_passes_if_it_fits(tmp_path: Path) -> None:
    with tgi(pico(), max_top_n_tokens=8) as one, vllm(pico()) as other:
        for name, url in ((f"tgi:{one.url}", one.url), (f"vllm:{other.url}", other.url)):
            folder = tmp_path / url.rpartition(":")[2]
            check_run(open_run(write_run(folder, sources=asked(name))))


def test_the_run_puts_a_source_server_in_front_of_an_inference_server(tmp_path: Path) -> None:
    document = Document("d", "The quick brown fox")
    with vllm(pico(), max_logprobs=8) as server:
        run = open_run(write_run(tmp_path, sources=asked(f"vllm:{server.url}")))
        with services(run) as using, using.client("far") as client:
            assert client.model().architecture == "vllm 0.33.0"
            [answer] = client.compute([document], 8, "float32")
    [expected] = pico().engine.compute([document], 8)
    np.testing.assert_allclose(answer.top.log_probs_RK, expected.top.log_probs_RK, atol=1e-4)


def test_a_source_that_answers_as_another_is_taken_for_it_in_the_same_run(tmp_path: Path) -> None:
    with vllm(pico(), max_logprobs=8) as server:
        plain = open_run(write_run(tmp_path / "plain", sources=asked(f"vllm:{server.url}")))
        run = open_run(write_run(tmp_path / "stated", sources=asked(f"vllm:{server.url}", same_as="a" * 64)))
        assert run.run_id == plain.run_id
        with services(run) as using, using.client("far") as client:
            assert client.model().weights_fingerprint == "a" * 64


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"model": "vllm:http://h:1", "same_as": "abc"}, "same_as"),
        ({"model": "tgi:http://h:1", "same_as": "A" * 64}, "same_as"),
        ({"model": "models/m", "same_as": "a" * 64}, "same_as: goes with tgi:URL and vllm:URL only"),
        (
            {"model": "vllm:http://h:1", "address": "h:2", "same_as": "a" * 64},
            "same_as: the source server at `address` says what it is; give it --same-as",
        ),
    ],
)
def test_what_is_no_statement_of_sameness_is_a_mistake_in_the_yaml(
    tmp_path: Path, source: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        open_run(write_run(tmp_path, sources=[{"name": "far", **source}]))


@pytest.mark.parametrize(
    ("server", "sections", "kind", "says"),
    [
        ({"max_logprobs": 7}, {}, ConfigError, "capture.top_k is 8, source far gives at most 7 entries"),
        ({"max_model_len": 60}, {}, CorpusError, "source far holds at most 59"),
        ({"logits": True}, {}, ModelError, "expected at most 0; serve log-probabilities"),
        ({"token": "s3cret"}, {}, ConfigError, "HTTP 401: Unauthorized; set FUSERY_ENGINE_TOKEN_FILE"),
    ],
)
def test_an_inference_server_that_does_not_fit_is_refused(
    tmp_path: Path, server: dict[str, Any], sections: dict[str, Any], kind: type[FuseryError], says: str
) -> None:
    with vllm(pico(), **server) as stand_in:
        refused(write_run(tmp_path, sources=asked(f"vllm:{stand_in.url}"), **sections), kind, says)


def test_an_inference_server_that_is_one_position_off_is_refused(tmp_path: Path) -> None:
    with tgi(pico(), max_top_n_tokens=8, shift=1) as server:
        file = write_run(tmp_path, sources=asked(f"tgi:{server.url}"))
        refused(file, ModelError, r"run\.yaml: source far: it does not answer as a source must")


def test_an_inference_server_that_does_not_answer_is_named(tmp_path: Path, closed: str) -> None:
    file = write_run(tmp_path, sources=asked(f"tgi:http://{closed}"))
    refused(file, NoAnswer, f"source far: no inference server answers: tgi:http://{closed}: no answer")


@pytest.mark.parametrize(
    ("source", "kind", "says"),
    [
        ({"model": "tgi:localhost:80"}, AddressError, r"expected http\(s\)://host:port"),
        ({"model": "tgi:http://h:80", "revision": "abc"}, ConfigError, "the inference server decides"),
        ({"model": "tgi:http://h:80", "tokenizer": "./none"}, ConfigError, "there is no folder"),
        ({"model": "models/target"}, ConfigError, "goes with tgi:URL and vllm:URL only"),
    ],
)
def test_what_does_not_go_together_is_refused_while_the_file_is_read(
    tmp_path: Path, source: dict[str, Any], kind: type[FuseryError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        open_run(write_run(tmp_path, sources=asked(**source)))


def test_a_server_is_no_target(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    file.write_text(file.read_text().replace("model: models/target", "model: vllm:http://h:80"))
    with pytest.raises(ConfigError, match="target: vllm:http://h:80 is a server; a target is trained"):
        open_run(file)


def test_a_runs_identity_knows_the_tokenizer_but_its_digest_only_the_model(tmp_path: Path) -> None:
    one, other = (
        open_run(write_run(tmp_path / name, sources=[{**asked("tgi:http://h:80")[0], "tokenizer": tokenizer}]))
        for name, tokenizer in (("a", str(pico().folder)), ("b", "owner/name"))
    )
    assert one.config.digest() == other.config.digest()
    assert one.run_id != other.run_id


def test_the_name_of_transformers_may_stand_before_a_folder(tmp_path: Path) -> None:
    sources = [{"name": "near", "model": "transformers:models/target"}]
    check_run(open_run(write_run(tmp_path, sources=sources)))


class _Late(TransformersEngine):
    """Row i is the one for position i − 1."""

    def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
        return [self._late(answer) for answer in super().compute(documents, top_k)]

    @staticmethod
    def _late(answer: Distributions) -> Distributions:
        order = np.maximum(np.arange(len(answer.token_ids_T)) - 1, 0)
        return dataclasses.replace(answer, top=answer.top.take(order))


def test_a_served_source_that_is_one_position_off_is_refused(tmp_path: Path) -> None:
    good = pico().engine
    with running(_Late(good.model, good.tokenizer, good.network)) as server:
        file = write_run(tmp_path, sources=[{"name": "far", "model": "served", "address": server.address}])
        refused(file, ModelError, f"source far at {server.address}: it does not answer as a source must: .*position")

"""The vLLM engine against a real vLLM server on this machine's CPU: `make engine-test`, which makes its environment.

Skipped elsewhere: the server takes 3 GB of packages and as much memory. The stand-in of the other tests shows that the
protocol is kept; this shows that a server computes what the engine says it does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from fusery.runtime.errors import FuseryError, Mismatch
from fusery.source.api import Document
from fusery.source.conformance.checks import TEXTS as CONFORMANCE_TEXTS
from fusery.source.conformance.checks import Status, self_test
from fusery.source.engines.transformers import load_engine
from fusery.source.engines.vllm import VllmEngine, open_vllm
from support.models.pico_models import TEXTS, build_model

torch.set_num_threads(1)

VLLM = os.environ.get("ENGINE_TEST_VLLM")
pytestmark = [
    pytest.mark.skipif(VLLM is None, reason="make engine-test starts a real vLLM server; ENGINE_TEST_VLLM names it"),
    pytest.mark.timeout(1800),
]
K = 20
DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]
_START_S = 900.0


@dataclass(frozen=True)
class Server:
    url: str
    log: Path


@contextmanager
def serving(model: Path, folder: Path, *flags: str, port: int | None = None) -> Iterator[Server]:
    """A vLLM server of `model` that answers; ended, with its engine's process, at the end of the block."""
    if port is None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
    command = [str(VLLM), "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-logprobs", "64", "--enforce-eager", *flags]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = folder / f"vllm-{port}.log"
    with log.open("a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            yield Server(_answering(f"http://127.0.0.1:{port}", process, log), log)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(60)


def _answering(url: str, process: subprocess.Popen[bytes], log: Path) -> str:
    import urllib.request

    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return url
        except OSError:
            time.sleep(1)
    raise RuntimeError(f"vLLM does not serve; the end of its log:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "pico"
    # Heads of 32, the smallest that the CPU attention of vLLM has.
    build_model(folder, "llama", "byte_level", hidden_size=128, head_dim=32)
    return folder


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # Prompts are prefilled in pieces of 16 tokens: what a seeded request ends a CPU server at.
    flags = ("--max-num-batched-tokens", "16", "--max-num-seqs", "4", "--no-enable-prefix-caching")
    with serving(model, tmp_path_factory.mktemp("log"), *flags) as found:
        yield found


@pytest.fixture(scope="module")
def engine(server: Server, model: Path) -> VllmEngine:
    return open_vllm(server.url, str(model))


def assert_alike(engine: VllmEngine, model: Path, documents: Sequence[Document]) -> None:
    expected = load_engine(str(model), device="cpu").compute(documents, K)
    for ours, theirs in zip(engine.compute(documents, K), expected, strict=True):
        assert np.array_equal(ours.token_ids_T, theirs.token_ids_T)
        np.testing.assert_allclose(ours.next_log_probs_T, theirs.next_log_probs_T, atol=1e-3)
        np.testing.assert_allclose(ours.top.log_probs_RK, theirs.top.log_probs_RK, atol=1e-3)
        assert (ours.top.ids_RK != theirs.top.ids_RK).mean() < 0.01


def test_a_real_server_says_what_transformers_says_of_prompts_in_pieces(engine: VllmEngine, model: Path) -> None:
    for _ in range(3):
        assert_alike(engine, model, DOCUMENTS)


def test_a_real_server_conforms(engine: VllmEngine) -> None:
    failed = [check for check in self_test(engine, CONFORMANCE_TEXTS, K) if check.status is Status.FAILED]
    # A model with random weights does not find its next token likelier than another.
    assert {check.name for check in failed} <= {"likelihood"}


def test_the_limits_are_found(engine: VllmEngine) -> None:
    assert engine.model.limits.max_top_k == 64
    assert engine.model.architecture.startswith("vllm 0.")


def test_a_server_that_comes_back_with_other_flags_is_found_out(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path, "--max-num-batched-tokens", "512") as first:
        engine = open_vllm(first.url, str(model))
        engine.compute(DOCUMENTS[:1], 3)
    port = int(first.url.rpartition(":")[2])
    with pytest.raises(FuseryError):
        engine.compute(DOCUMENTS[:1], 3)
    with serving(model, tmp_path, "--max-num-batched-tokens", "1024", port=port) as second:
        with pytest.raises(Mismatch, match="system_fingerprint"):
            engine.compute(DOCUMENTS[:1], 3)
        again = open_vllm(second.url, str(model))
        assert again.model.fingerprint != engine.model.fingerprint
        stated = open_vllm(second.url, str(model), same_as=engine.model.weights_fingerprint)
        assert stated.model.fingerprint == engine.model.fingerprint
        assert_alike(stated, model, DOCUMENTS)

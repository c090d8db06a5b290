"""Whole runs on real processes: gRPC servers, a Celery worker, Valkey, the trainer, MLflow."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from fusery import cli
from fusery.hops.plan import Hop, Plan
from fusery.run import local
from fusery.run.open_run import open_run
from fusery.run.steps import steps
from fusery.runtime.processes import Supervisor, fusery_command, wait_for_file
from support.models.pico_models import build_model

pytestmark = pytest.mark.timeout(900)

KINDS = {"llama": "sentencepiece", "mpt": "byte_level"}
WORDS = re.findall(r"\w+", "fox jumps over the lazy dog def fuse sources target return value for source in align yield")


def _documents(start: int, count: int) -> str:
    """Different texts of two domains, spelled by every pico tokenizer."""
    lines = []
    for i in range(start, start + count):
        words = [WORDS[(i * 7 + j * (1 + i % 5)) % len(WORDS)] for j in range(12 + i % 9)]
        domain, text = ("prose", " ".join(words)) if i % 2 else ("code", f"def f{i}():\n    " + ".".join(words))
        lines.append(json.dumps({"text": text, "domain": domain}))
    return "\n".join(lines)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, (architecture, tokenizer) in enumerate(KINDS.items()):
        build_model(folder / architecture, architecture, tokenizer, seed=seed)
    return folder


def write_run(folder: Path, models: Path, **sections: Any) -> Path:
    """A run's YAML and corpora; the target is the Llama model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text(_documents(0, 24))
    (folder / "held_out.jsonl").write_text(_documents(100, 24))
    content: dict[str, Any] = {
        "name": "pico",
        "target": {"model": str(models / "llama")},
        "sources": [{"name": name, "model": str(models / name)} for name in KINDS],
        "corpus": {
            "train": [{"path": "train.jsonl"}],
            "held_out": [{"path": "held_out.jsonl"}],
            "max_document_bytes": 200,
            "shard_bytes": 200,
        },
        "capture": {"top_k": 8},
        "training": {"clm_weight": 0.5, "sequence_length": 256, "batch_sequences": 2, "learning_rate": 1e-3},
        # Random models of a few thousand weights need not gain.
        "gate": {"better_than": [], "domain_tolerance": 9},
        "services": {"store": "store", "threads": 1},
        **sections,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """A run of two architectures and kinds of tokenizer, undisturbed, to its end."""
    path = write_run(tmp_path_factory.mktemp("finished"), models)
    assert cli.main(["run", str(path)]) == 0
    return path


def note(path: Path, name: str) -> dict[str, Any]:
    run = open_run(path)
    found = run.store.read_note(f"{run.name}/{name}")
    assert found is not None
    return found


def weights_digest(path: Path) -> str:
    run = open_run(path)
    folder = steps.training_folder(run, steps.load_plan(run), clm_only=False)
    return str(json.loads((folder / "result.json").read_text())["weights_digest"])


def test_a_run_ends_in_an_evaluation_of_all_models(finished: Path) -> None:
    content = json.loads(steps.evaluation_path(open_run(finished)).read_text())
    assert set(content["models"]) == {"target_before", "clm", "fused", "sources", "baselines"}
    assert set(content["models"]["baselines"]) == {"ensemble"}
    assert "source mpt is 'mpt'" in content["remarks"]["weight merging"]
    assert set(content["models"]["sources"]) == {"llama", "mpt"}
    assert set(content["models"]["fused"]["domains"]) == {"prose", "code"}
    # The target is one of the sources: measured through the service and in process it must be the same.
    before, source = content["models"]["target_before"], content["models"]["sources"]["llama"]
    assert before["mean_bits_per_byte"] == pytest.approx(source["mean_bits_per_byte"], rel=1e-5)
    assert content["models"]["fused"]["mean_bits_per_byte"] < before["mean_bits_per_byte"]
    assert all(0 < c["positions"] <= 1 for domains in content["coverage"].values() for c in domains.values())
    assert all(sum(shares.values()) == pytest.approx(1) for shares in content["wins"].values())


def test_the_fused_model_loads_without_fusery(finished: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = open_run(finished)
    folder = steps.training_folder(run, steps.load_plan(run), clm_only=False) / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("the lazy dog", return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()


def test_the_registered_model_loads_by_its_alias(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a process of its own: mlflow warns about its own imports, and warnings are errors here.
    registered = note(finished, "registered.json")
    program = (
        "import sys, mlflow; mlflow.set_tracking_uri(sys.argv[1]); "
        "pipeline = mlflow.transformers.load_model('models:/pico@candidate'); "
        "print('GENERATED', len(pipeline('the lazy', max_new_tokens=3)[0]['generated_text']))"
    )
    command = [sys.executable, "-c", program, registered["tracking_uri"]]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert re.search(r"GENERATED \d+", ended.stdout), ended.stderr[-2000:]


def test_the_same_command_again_does_nothing_and_says_so(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert cli.main(["run", str(finished)]) == 0
    shown = capsys.readouterr().out
    assert "nothing to do" in shown
    assert "models:/pico@candidate" in shown


def test_nothing_that_a_run_started_is_left(finished: Path) -> None:
    store = str(finished.parent)
    left = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if store in " ".join(p.info["cmdline"] or [])]
    assert left == []


def test_no_secret_is_in_arguments_logs_or_notes(finished: Path) -> None:
    for path in finished.parent.rglob("*"):
        if path.is_file() and path.suffix in (".log", ".json", ".yaml"):
            # The worker's banner shows the broker's address with stars for the password.
            assert not re.search(r"redis://:[^*]", path.read_text(errors="replace")), path


def _children(process: subprocess.Popen[str], *words: str) -> list[psutil.Process]:
    """The living processes under `process` whose command line has all `words`."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            line = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if all(word in line for word in words):
            found.append(child)
    return found


def _wait_for_captures(path: Path, process: subprocess.Popen[str], at_least: int) -> None:
    run = open_run(path)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        known = run.store.read_note(f"{run.name}/plan.json")
        if known is not None:
            plan = Plan.model_validate(known)
            done = sum(len(run.store.listed(plan.folder(Hop.CAPTURE, source.name))) for source in plan.sources)
            if done >= at_least:
                return
        time.sleep(0.02)
    pytest.fail(f"{at_least} captures did not appear; exit code {process.poll()}")


def _start(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        fusery_command("run", str(path)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


# `finished` starts every command cold.
@pytest.mark.usefixtures("finished", "warm")
def test_a_killed_worker_and_source_cost_time_and_change_no_byte(finished: Path, tmp_path: Path, models: Path) -> None:
    # Neither changes a byte of what is compared.
    shorter = {"registry": {"enabled": False}, "evaluation": {"clm_baseline": False}}
    path = write_run(tmp_path, models, **shorter)
    # First Ctrl-C in the middle: everything stops, and the same command takes it up.
    process = _start(path)
    _wait_for_captures(path, process, 1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert f"Take it up again with: fusery run {path}" in output

    process = _start(path)
    _wait_for_captures(path, process, 3)
    _children(process, "serve-source", "mpt")[0].kill()
    worker = _children(process, "fusery", "worker")[0]
    for child in [*worker.children()[:1], worker]:
        child.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert note(path, "manifest.json") == note(finished, "manifest.json")
    assert weights_digest(path) == weights_digest(finished)


@pytest.fixture
def servers(warm: None, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A source server and a broker that are not the run's own; the source's address."""
    with Supervisor() as supervisor:
        ready = tmp_path / "ready"
        child = local.Child(
            "source",
            fusery_command(
                "serve-source", str(models / "mpt"), "--port", "0", "--threads", "1", "--ready-file", str(ready)
            ),
            dict(os.environ),
            tmp_path / "source.log",
        )
        supervisor.start(child)
        url = local.start_broker(supervisor, tmp_path)
        monkeypatch.setenv("FUSERY_BROKER_URL", url)
        worker = fusery_command("worker", "--processes", "1")
        environment = {**os.environ, "FUSERY_STORE": str(tmp_path / "run/store")}
        supervisor.start(local.Child("worker", worker, environment, tmp_path / "worker.log"))
        yield wait_for_file(ready, child, 120)


def test_a_run_uses_servers_of_your_own_with_one_source_that_is_not_the_target(
    servers: str, tmp_path: Path, models: Path
) -> None:
    sections = {
        "sources": [{"name": "mpt", "model": "whatever/the-server-has", "address": servers}],
        "registry": {"enabled": False, "accept_licenses": ["mpt"]},
        "evaluation": {"clm_baseline": False},
    }
    path = write_run(tmp_path / "run", models, **sections)
    assert cli.main(["run", str(path)]) == 0
    content = json.loads(steps.evaluation_path(open_run(path)).read_text())
    assert set(content["models"]) == {"target_before", "fused", "sources", "baselines"}
    assert not list((tmp_path / "run/store").rglob("source-*.log"))
    assert not (tmp_path / "run/store/mlflow").exists()

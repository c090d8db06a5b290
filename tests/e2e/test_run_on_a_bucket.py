"""A whole run with its store in a bucket, over real HTTP: the same bytes as in a folder, and no secret anywhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from fusery import cli
from fusery.hops.store.store import Store
from fusery.run.open_run import Run, open_run
from fusery.run.steps import steps
from support.runs.pico_run import write_run
from support.store.s3_server import SECRET_KEY, new_store_url, s3_server

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("warm")]

SECTIONS: dict[str, Any] = {
    "registry": {"enabled": True},
    "evaluation": {"clm_baseline": False},
    # Random models of a few thousand weights need not gain.
    "gate": {"better_than": [], "domain_tolerance": 9},
}


@dataclass
class Finished:
    run: Run
    commands: list[str]
    """Command lines of all processes that it had."""


@contextmanager
def _watched(commands: set[str]) -> Iterator[None]:
    """Adds the command lines of this process's children, as they come and go."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            for child in psutil.Process().children(recursive=True):
                try:
                    commands.add(" ".join(child.cmdline()))
                except psutil.Error:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def in_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    with s3_server():
        services = {"store": new_store_url(), "work": "work"}
        path = write_run(tmp_path_factory.mktemp("in-bucket"), **SECTIONS, services=services)
        commands: set[str] = set()
        with _watched(commands):
            assert cli.main(["run", str(path)]) == 0
        yield Finished(open_run(path), sorted(commands))


@pytest.fixture(scope="module")
def in_folder(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = write_run(tmp_path_factory.mktemp("in-folder"), **SECTIONS)
    assert cli.main(["run", str(path), "--until", "train"]) == 0
    return open_run(path)


def weights(run: Run) -> str:
    folder = steps.training_folder(run, steps.load_plan(run), clm_only=False)
    return str(json.loads((folder / "result.json").read_text())["weights_digest"])


def test_a_run_in_a_bucket_makes_the_same_bytes_as_in_a_folder(in_bucket: Finished, in_folder: Run) -> None:
    assert in_bucket.run.run_id == in_folder.run_id
    manifest = in_bucket.run.store.read_note(f"{in_bucket.run.name}/manifest.json")
    assert manifest == steps.manifest(in_folder, steps.load_plan(in_folder))
    assert weights(in_bucket.run) == weights(in_folder)


def test_a_run_in_a_bucket_is_evaluated_and_registered(in_bucket: Finished) -> None:
    run = in_bucket.run
    content = json.loads(steps.evaluation_path(run).read_text())
    assert set(content["models"]["sources"]) == {"prose", "code"}
    registered = run.store.read_note(f"{run.name}/registered.json")
    assert registered is not None
    assert registered["alias"] == "candidate"
    assert run.work.name == "work"


def test_the_same_command_again_finds_everything_in_the_bucket(
    in_bucket: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(in_bucket.run.file.path)]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_status_and_cache_read_a_bucket(in_bucket: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    run = in_bucket.run
    assert cli.main(["status", run.run_id, "--store", run.store.url, "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["steps"]
    assert all(part["done"] == part["total"] for part in parts.values())
    assert cli.main(["store", "verify", run.store.url]) == 0
    assert "all of them are whole" in capsys.readouterr().out
    assert cli.main(["store", "ls", run.store.url, "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert {"corpora", "captures", "aligned", "fused"} <= {holding["kind"] for holding in held["holdings"]}


def test_no_credential_of_the_bucket_is_in_arguments_logs_artefacts_or_mlflow(in_bucket: Finished) -> None:
    run = in_bucket.run
    assert any("serve-source" in command for command in in_bucket.commands)
    assert not [command for command in in_bucket.commands if SECRET_KEY in command]
    secret = SECRET_KEY.encode()
    assert not [path for path in run.file.folder.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert not [name for name in _objects(run.store) if secret in name[1]]


def _objects(store: Store) -> Iterator[tuple[str, bytes]]:
    import fsspec

    files = fsspec.filesystem("s3", use_listings_cache=False)
    for name in files.find(store.url.removeprefix("s3://")):
        yield name, files.cat_file(name)

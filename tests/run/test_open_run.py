"""What opening a run reads, writes and remembers, and where what is no artefact lies."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from fusery.run.corpus import corpora as corpus
from fusery.run.corpus import files as corpus_files
from fusery.run.open_run import open_run, publish_input
from fusery.run.preflight.checks import check_run
from fusery.runtime.errors import ConfigError
from support.runs.pico_run import write_run
from support.runs.refusals import assert_nothing_was_done


def test_opening_a_run_writes_nothing(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    open_run(file)
    assert not (tmp_path / "store").exists()


def test_the_second_command_reads_neither_texts_nor_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_run(tmp_path)
    first = open_run(file)
    publish_input(first)

    def refuse(*_: Any) -> None:
        raise AssertionError("it was read again")

    monkeypatch.setattr(corpus, "scan", refuse)
    monkeypatch.setattr(corpus_files.hashlib, "file_digest", refuse)
    again = open_run(file)
    assert again.run_id == first.run_id
    assert again.corpora.longest == first.corpora.longest
    publish_input(again)


@pytest.mark.parametrize("name", ["digests", "readings"])
def test_damaged_notes_of_what_was_read_are_read_again(tmp_path: Path, name: str) -> None:
    file = write_run(tmp_path)
    first = open_run(file)
    publish_input(first)
    notes = list((tmp_path / "store" / name).glob("*.json"))
    assert notes
    for note in notes:
        content = bytearray(note.read_bytes())
        content[len(content) // 2] ^= 1
        note.write_bytes(content)
    assert open_run(file).run_id == first.run_id


def test_weights_that_changed_in_place_with_size_and_mtime_kept_are_noticed(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    first = open_run(file)
    publish_input(first)
    weights = tmp_path / "models/code/model.safetensors"
    before, content = weights.stat(), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_run(file).run_id != first.run_id


def test_checkpoints_and_logs_lie_in_the_store_where_that_is_a_folder(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path))
    assert run.folder == tmp_path / "store/runs" / run.run_id
    assert run.tracking_uri == f"sqlite:///{tmp_path}/store/mlflow/mlflow.db"


def test_a_work_folder_can_be_chosen_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_run(tmp_path, services={"work": "mine"})
    run = open_run(file)
    assert run.folder == tmp_path / "mine/runs" / run.run_id
    assert run.tracking_uri == f"sqlite:///{tmp_path}/mine/mlflow/mlflow.db"
    monkeypatch.setenv("FUSERY_WORK", str(tmp_path / "other"))
    again = open_run(file)
    assert again.run_id == run.run_id
    assert again.folder == tmp_path / "other/runs" / run.run_id
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSERY_WORK", "here")
    assert open_run(file).work == tmp_path / "here"


def test_beside_a_bucket_the_work_folder_stands_beside_the_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_run(tmp_path, services={"store": "s3://bucket/folder"})
    run = open_run(file, asks_store=False)
    assert run.work == tmp_path / "fusery-work"


def test_a_work_folder_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("a file")
    file = write_run(tmp_path, services={"work": "mine"})
    with pytest.raises(
        ConfigError, match=r"work folder .*/mine: can't be written: .*; set services.work or FUSERY_WORK"
    ):
        check_run(open_run(file))
    assert_nothing_was_done(file)


def test_a_copy_of_the_yaml_elsewhere_is_the_same_run(tmp_path: Path) -> None:
    file = write_run(tmp_path / "original")
    copy = tmp_path / "copy.yaml"
    shutil.copy(file, copy)
    run = open_run(copy, folder=file.parent)
    assert run.run_id == open_run(file).run_id
    assert run.work == tmp_path / "original/store"
    assert run.file.folder == file.parent


def test_held_out_files_or_a_share_must_be_given_and_not_both(tmp_path: Path) -> None:
    file = write_run(tmp_path, corpus={"held_out": []})
    with pytest.raises(
        ConfigError, match=r"run.yaml:\d+: corpus: held_out, held_out_share: give one of them, got neither"
    ):
        open_run(file)
    file = write_run(tmp_path / "both", corpus={"held_out_share": 0.5})
    with pytest.raises(ConfigError, match=r"held_out_share: give one of them, got both"):
        open_run(file)
    file = write_run(tmp_path / "share", corpus={"held_out": [], "held_out_share": 0.5})
    corpora = open_run(file).corpora
    assert corpora.train.documents + corpora.held_out.documents == 24


def test_the_notes_say_what_they_are_of(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path))
    publish_input(run)
    notes = [json.loads(path.read_text()) for path in (tmp_path / "store/digests").glob("*.json")]
    assert any(str(tmp_path / "models/code/model.safetensors") in json.dumps(note) for note in notes)

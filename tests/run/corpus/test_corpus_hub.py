"""Hugging Face datasets as corpora, from folders on disk and from the cache: nothing here has a network."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusery.config.file import RunFile, read_run_file
from fusery.config.run import CorpusFile, RunConfig
from fusery.hops.store.shards import CorpusDocument
from fusery.run.corpus.hub import dataset_state, read_dataset
from fusery.runtime.errors import ConfigError, CorpusError
from support.runs.corpus_runs import documents_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = """\
---
configs:
- config_name: prose
  data_files: [{split: train, path: prose/*.parquet}]
- config_name: code
  data_files: [{split: train, path: code.parquet}, {split: test, path: test.parquet}]
---
# A dataset
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own, and a hub that can't be reached."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert datasets.config.HF_HUB_OFFLINE
    datasets.disable_progress_bars()
    yield tmp_path / "cache"
    datasets.enable_progress_bars()


def write_dataset(folder: Path) -> Path:
    """A folder as one gets it when one clones a dataset: two configs, three splits."""
    (folder / "prose").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for part, texts in {"a": ["one", "two"], "b": ["three", "four"]}.items():
        pq.write_table(pa.table({"text": texts, "domain": ["x", "y"]}), folder / f"prose/{part}.parquet")
    for name, texts in {"code": ["def f(): pass", "x = 1"], "test": ["y = 2"]}.items():
        pq.write_table(pa.table({"body": texts, "kind": [7] * len(texts)}), folder / f"{name}.parquet")
    return folder


def run_of(folder: Path, *train: dict[str, Any], held_out: str = "held_out.txt") -> RunFile:
    corpus = {"train": train, "held_out": [{"path": held_out}]}
    config = {"name": "x", "target": {"model": "t"}, "sources": [{"name": "s", "model": "m"}], "corpus": corpus}
    return RunFile(RunConfig.model_validate(config), folder / "run.yaml")


def read(folder: Path, **fields: Any) -> list[CorpusDocument]:
    run = run_of(folder, fields)
    return list(read_dataset(run, run.config.corpus.train[0], 0))


def test_a_split_of_a_config_is_read_in_order(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    found = read(tmp_path, path="hf:./data", config="prose", split="train")
    assert found == [
        CorpusDocument(f"0-data:{number}", domain, text)
        for number, (text, domain) in enumerate([("one", "x"), ("two", "y"), ("three", "x"), ("four", "y")], start=1)
    ]


def test_columns_are_chosen_and_splits_are_sliced(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    chosen = {"path": "hf:./data", "config": "code", "text_column": "body", "domain_column": "kind"}
    assert [(d.text, d.domain) for d in read(tmp_path, split="test", **chosen)] == [("y = 2", "7")]
    assert [d.text for d in read(tmp_path, split="train[1:]+test", **chosen)] == ["x = 1", "y = 2"]


def test_json_lines_and_text_without_a_card_are_datasets_too(tmp_path: Path) -> None:
    for name, content in {"json/a.jsonl": '{"text": "one"}\n{"text": "two"}\n', "text/a.txt": "one\ntwo\n"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
        found = read(tmp_path, path=f"hf:{tmp_path / name.split('/')[0]}", split="train", domain="d")
        assert [(document.text, document.domain) for document in found] == [("one", "d"), ("two", "d")]


def test_a_dataset_is_one_entry_among_others_and_its_doubles_leave(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    (tmp_path / "held_out.txt").write_text("two")
    (tmp_path / "more.txt").write_text("three")
    run = run_of(tmp_path, {"path": "more.txt"}, {"path": "hf:./data", "config": "prose", "split": "train"})
    train, _, corpora = documents_of(run)
    assert [(d.doc_id, d.text) for d in train] == [
        ("0-more.txt", "three"),
        ("1-data:1", "one"),
        ("1-data:4", "four"),
    ]
    assert (corpora.removed.duplicates, corpora.removed.held_out) == (1, 1)


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_a_hub_that_cannot_be_reached_is_said_with_ways_out(tmp_path: Path, revision: str) -> None:
    with pytest.raises(CorpusError, match=r"hf:owner/name.*: the Hugging Face Hub can't be reached: .*HF_HUB_OFFLINE"):
        read(tmp_path, path=f"hf:owner/name{revision}", split="train")


def fill_cache(tmp_path: Path, cache: Path) -> None:
    """The cache as it is after owner/name has been loaded from the hub at COMMIT."""
    write_dataset(tmp_path / "data")
    read(tmp_path, path="hf:./data", config="prose", split="train")
    (prepared,) = cache.glob("*/data/*/*/*/dataset_info.json")
    shutil.copytree(prepared.parent, cache / "owner___name/prose/0.0.0" / COMMIT)
    info = cache / "owner___name/prose/0.0.0" / COMMIT / "dataset_info.json"
    info.write_text(info.read_text().replace('"dataset_name": "data"', '"dataset_name": "name"'))
    for arrow in info.parent.glob("data-*.arrow"):
        arrow.rename(arrow.with_name(arrow.name.replace("data-", "name-", 1)))


@pytest.mark.parametrize("revision", ["", f"@{COMMIT}"])
def test_without_the_hub_a_filled_cache_is_enough(tmp_path: Path, cache: Path, revision: str) -> None:
    fill_cache(tmp_path, cache)
    found = read(tmp_path, path=f"hf:owner/name{revision}", config="prose", split="train")
    assert [document.text for document in found] == ["one", "two", "three", "four"]


def test_a_dataset_is_known_by_its_commit_and_no_hub_is_asked_for_a_pinned_one(tmp_path: Path, cache: Path) -> None:
    def state(**fields: Any) -> str:
        run = run_of(tmp_path, {"split": "train", **fields})
        return dataset_state(run, run.config.corpus.train[0])

    assert state(path=f"hf:owner/other@{COMMIT}") == COMMIT
    with pytest.raises(CorpusError, match="can't be reached"):
        state(path="hf:owner/other")
    fill_cache(tmp_path, cache)
    assert state(path="hf:owner/name", config="prose") == COMMIT
    before = state(path="hf:./data")
    pq.write_table(pa.table({"body": ["a"], "kind": [1]}), tmp_path / "data/test.parquet")
    assert state(path="hf:./data") != before


def test_the_cache_does_not_stand_in_for_another_revision(tmp_path: Path, cache: Path) -> None:
    fill_cache(tmp_path, cache)
    with pytest.raises(CorpusError, match=rf"can't be reached or lacks this revision, and the cache has {COMMIT}"):
        read(tmp_path, path=f"hf:owner/name@{'f' * 40}", config="prose", split="train")


def test_a_folder_in_the_working_directory_is_not_taken_for_the_hubs_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "owner/name")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match="can't be reached"):
        read(tmp_path, path="hf:owner/name", config="prose", split="train")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"config": "poems", "split": "train"}, r"config poems, split train can't be loaded: .*prose"),
        ({"split": "train"}, r"config default, split train can't be loaded: .*prose"),
        ({"config": "code", "split": "validation"}, r"split validation can't be loaded: .*test"),
    ],
)
def test_a_wrong_config_or_split_is_answered_with_those_there_are(
    tmp_path: Path, fields: dict[str, str], says: str
) -> None:
    write_dataset(tmp_path / "data")
    with pytest.raises(ConfigError, match=says):
        read(tmp_path, path="hf:./data", **fields)


def test_columns_and_rows_that_are_wrong_are_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    with pytest.raises(CorpusError, match=r"hf:\./data: no column 'text'; it has body, kind; set text_column"):
        read(tmp_path, path="hf:./data", config="code", split="train")
    pq.write_table(pa.table({"body": ["a", "b", None], "kind": [1, None, 1]}), tmp_path / "data/test.parquet")
    chosen = {"path": "hf:./data", "config": "code", "split": "test", "text_column": "body"}
    with pytest.raises(CorpusError, match=r"hf:\./data: row 2: expected a domain in 'kind'"):
        read(tmp_path, **chosen, domain_column="kind")
    assert [document.text for document in read(tmp_path, **chosen)] == ["a", "b"]
    with pytest.raises(CorpusError, match=r"nowhere: no such folder"):
        read(tmp_path, path="hf:./nowhere", split="train")


def test_changed_files_and_other_folders_of_the_same_name_are_not_read_from_the_cache(tmp_path: Path) -> None:
    one, other = write_dataset(tmp_path / "1/data"), write_dataset(tmp_path / "2/data")
    for folder, text in [(one, "first"), (one, "second"), (other, "third")]:
        pq.write_table(pa.table({"body": [text], "kind": [1]}), folder / "test.parquet")
        found = read(tmp_path, path=f"hf:{folder}", config="code", split="test", text_column="body")
        assert [document.text for document in found] == [text]


def test_damaged_files_of_a_dataset_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    (tmp_path / "data/prose/a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ConfigError, match=r"config prose, split train can't be loaded"):
        read(tmp_path, path="hf:./data", config="prose", split="train")


def test_data_of_kinds_that_are_no_tables_of_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.xml").write_text("<a>text</a>")
    with pytest.raises(ConfigError, match=r"its files are of the kind xml, expected arrow, csv, json, parquet, text$"):
        read(tmp_path, path="hf:./data", split="train")


def test_code_in_a_dataset_is_never_run(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data")
    (folder / "data.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(ConfigError, match="scripts are no longer supported"):
        read(tmp_path, path="hf:./data", config="prose", split="train")
    assert not (tmp_path / "ran").exists()


def test_without_the_package_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"hf:owner/name: .*pip install .*'\.\[datasets\]'"):
        read(tmp_path, path="hf:owner/name", split="train")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{path: 'hf:owner/name'}", r"split: missing; say which split of hf:owner/name"),
        ("{path: 'hf:name', split: train}", r"expected hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:\./FOLDER"),
        ("{path: 'hf:a/b/c', split: train}", r"expected hf:OWNER/NAME"),
        ("{path: 'hf:a/b@', split: train}", r"expected hf:OWNER/NAME"),
        ("{path: a.jsonl, split: train}", r"split, config: go with hf:OWNER/NAME only, the path is 'a\.jsonl'"),
        ("{path: a.jsonl, domain: x, domain_column: y}", r"domain, domain_column: give one of them"),
    ],
)
def test_entries_that_make_no_sense_are_refused_with_their_line(tmp_path: Path, entry: str, says: str) -> None:
    text = f"""\
name: x
target: {{model: t}}
sources: [{{name: s, model: m}}]
corpus:
  train:
    - {entry}
  held_out: [{{path: h.txt}}]
"""
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"run\.yaml:6: corpus\.train\.0: .*{says}"):
        read_run_file(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("hf:owner/name", ("owner/name", None)),
        ("hf:owner/name@refs/convert/parquet", ("owner/name", "refs/convert/parquet")),
        ("hf:./with@sign", ("./with@sign", None)),
        ("hf:/data", ("/data", None)),
    ],
)
def test_names_revisions_and_folders_are_told_apart(path: str, place: tuple[str, str | None]) -> None:
    assert CorpusFile.model_validate({"path": path, "split": "train"}).dataset == place

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.errors import CorpusError
from fusery.formats import shards
from fusery.formats.shards import CorpusDocument
from fusery.formats.store import Store
from fusery.pipeline.corpus import read_corpora, split
from fusery.run_config import RunConfig
from fusery.run_file import RunFile
from fusery.worker.plan import corpus_shard
from strategies import texts


def run_file(folder: Path, **corpus: Any) -> RunFile:
    fields = {"train": [{"path": "train.jsonl"}], "held_out": [{"path": "held_out.jsonl"}], **corpus}
    config = RunConfig.model_validate(
        {"name": "x", "target": {"model": "t"}, "sources": [{"name": "s", "model": "m"}], "corpus": fields}
    )
    return RunFile(config, folder / "run.yaml")


def write(folder: Path, name: str, *documents: object) -> None:
    (folder / name).write_text("\n".join(json.dumps(document) for document in documents), encoding="utf-8")


@given(text=texts, limit=st.integers(16, 40))
def test_pieces_join_to_the_text_and_none_is_too_long(text: str, limit: int) -> None:
    pieces = list(split(CorpusDocument("d", "x", text * 3), limit))
    assert all(len(piece.text.encode()) <= limit for piece in pieces)
    assert all(piece.text.strip() for piece in pieces)
    kept = "".join(piece.text for piece in pieces)
    assert "".join(kept.split()) == "".join((text * 3).split())
    assert len({piece.doc_id for piece in pieces}) == len(pieces)


def test_a_text_that_fits_stays_whole_with_its_own_id() -> None:
    assert list(split(CorpusDocument("d", "x", "a b"), 16)) == [CorpusDocument("d", "x", "a b")]


def test_cuts_come_after_white_space_where_there_is_any() -> None:
    pieces = [piece.text for piece in split(CorpusDocument("d", "x", "alpha beta gamma delta"), 16)]
    assert pieces == ["alpha beta ", "gamma delta"]


def test_held_out_text_leaves_the_training_text_and_doubles_stand_once(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", {"text": "a", "domain": "x"}, {"text": "b"}, {"text": "a"}, {"text": "h"})
    write(tmp_path, "held_out.jsonl", {"text": "h", "domain": "y"})
    corpora = read_corpora(run_file(tmp_path))
    assert [(d.text, d.domain) for d in corpora.train.documents] == [("a", "x"), ("b", "all")]
    assert corpora.removed_duplicates == 2
    assert corpora.held_out.domains == ["y"]


def test_a_sample_is_a_function_of_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", *({"text": f"document {i}"} for i in range(50)))
    write(tmp_path, "held_out.jsonl", {"text": "h"})
    one = read_corpora(run_file(tmp_path, max_train_documents=10)).train
    other = read_corpora(run_file(tmp_path, max_train_documents=10)).train
    assert one == other
    assert len(one.documents) == 10
    numbers = [int(document.text.split()[1]) for document in one.documents]
    assert numbers == sorted(numbers)


def test_folders_text_files_and_compressed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "texts/inner").mkdir(parents=True)
    (tmp_path / "texts/inner/a.txt").write_text("from a folder")
    (tmp_path / "plain.txt").write_text("from a file")
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(b'{"body": "from gzip"}\n\n'))
    write(tmp_path, "held_out.jsonl", {"text": "h"})
    files = [
        {"path": "texts", "domain": "f"},
        {"path": "plain.txt"},
        {"path": "lines.jsonl.gz", "text_column": "body"},
    ]
    corpora = read_corpora(run_file(tmp_path, train=files))
    assert [d.text for d in corpora.train.documents] == ["from a folder", "from a file", "from gzip"]
    assert corpora.train.documents[0].domain == "f"


def test_published_shards_hold_the_documents_in_order_and_are_written_once(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", *({"text": f"document {i}"} for i in range(5)))
    write(tmp_path, "held_out.jsonl", {"text": "h"})
    corpus = read_corpora(run_file(tmp_path, shard_documents=2)).train
    store = Store(str(tmp_path / "store"))
    corpus.publish(store)
    corpus.publish(store)
    names = [corpus_shard(corpus.digest, shard) for shard in range(corpus.shards)]
    assert store.names(names[0].rpartition("/")[0]) == names
    assert tuple(d for name in names for d in shards.read_corpus(store.read(name))) == corpus.documents


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"train.jsonl:2: expected a JSON object with text in 'text'"),
        ('{"txt": "a"}', r"train.jsonl:2: .*KeyError"),
        ('{"text": 3}', r"train.jsonl:2: "),
        ('{"text": "\\ud800"}', r"train.jsonl:2: .*surrogates"),
        ("[1]", r"train.jsonl:2: "),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "good"}\n' + line)
    write(tmp_path, "held_out.jsonl", {"text": "h"})
    with pytest.raises(CorpusError, match=says):
        read_corpora(run_file(tmp_path))


def test_missing_files_blank_files_and_text_that_is_all_held_out_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "held_out.jsonl", {"text": "h"})
    with pytest.raises(CorpusError, match=r"train.jsonl: no such file"):
        read_corpora(run_file(tmp_path))
    write(tmp_path, "train.jsonl", {"text": "  \n"})
    with pytest.raises(CorpusError, match=r"train.jsonl: no text in it"):
        read_corpora(run_file(tmp_path))
    write(tmp_path, "train.jsonl", {"text": "h"})
    with pytest.raises(CorpusError, match="nothing is left to train on"):
        read_corpora(run_file(tmp_path))
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(CorpusError, match="not readable as UTF-8"):
        read_corpora(run_file(tmp_path))

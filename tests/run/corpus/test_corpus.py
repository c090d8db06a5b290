"""Which documents are trained on and held out, in which shards they lie, and what the next command finds."""

from __future__ import annotations

import gzip
import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.hops.names import corpus_shard
from fusery.hops.store import shards
from fusery.hops.store.store import Store
from fusery.run.corpus import corpora as corpus
from fusery.run.corpus import reading as corpus_reading
from fusery.run.corpus.corpora import open_corpora, publish_corpora
from fusery.run.corpus.scan import likely_tokens
from fusery.runtime.errors import CorpusError
from support.core.strategies import texts
from support.runs.corpus_runs import documents_of, published, run_of, write_rows

few_texts = st.lists(st.text("abc ", max_size=24), min_size=1, max_size=30)


def test_held_out_text_leaves_the_training_text_and_doubles_stand_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", {"text": "a", "domain": "x"}, {"text": "b"}, {"text": "a"}, {"text": "h"})
    write_rows(tmp_path / "held_out.jsonl", {"text": "h", "domain": "y"})
    train, _, corpora = documents_of(run_of(tmp_path))
    assert [(d.text, d.domain) for d in train] == [("a", "x"), ("b", "all")]
    assert (corpora.removed.duplicates, corpora.removed.held_out) == (1, 1)
    assert (corpora.train.domains, corpora.held_out.domains) == ({"x": 1, "all": 1}, {"y": 1})


@given(train=few_texts, held_out=few_texts, max_bytes=st.just(16))
@settings(max_examples=40, deadline=None)
def test_no_text_stands_twice_or_on_both_sides_and_every_removal_is_counted(
    train: list[str], held_out: list[str], max_bytes: int
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "train.jsonl", *({"text": text} for text in ["train only", *train]))
        write_rows(folder / "held_out.jsonl", *({"text": text} for text in ["held out only", *held_out]))
        run = run_of(folder, max_document_bytes=max_bytes)
        trained, measured, corpora = documents_of(run)
        pieces = list(corpus_reading.pieces(run))
    sides = {side: [p.document.text for p in pieces if p.side is side] for side in corpus_reading.Side}
    before = sides[corpus_reading.Side.TRAIN]
    measured_texts = sides[corpus_reading.Side.HELD_OUT]
    assert [d.text for d in measured] == list(dict.fromkeys(measured_texts))
    assert [d.text for d in trained] == [text for text in dict.fromkeys(before) if text not in set(measured_texts)]
    overlap = sum(text in set(measured_texts) for text in before)
    assert corpora.removed.held_out == overlap
    assert corpora.removed.duplicates == len(before) - overlap - len(trained)


def test_whole_documents_that_were_removed_are_counted_apart_from_pieces(tmp_path: Path) -> None:
    long = "first part here " + "second part 123 " + "third"
    write_rows(tmp_path / "train.jsonl", {"text": "x"}, {"text": long}, {"text": "x"}, {"text": "new " + "y" * 12})
    write_rows(tmp_path / "held_out.jsonl", {"text": long}, {"text": "y" * 12})
    _, _, corpora = documents_of(run_of(tmp_path, max_document_bytes=16))
    removed = corpora.removed
    assert (removed.held_out, removed.whole_held_out) == (3, 1)
    assert (removed.duplicates, removed.whole_duplicates) == (1, 1)


@given(rows=st.lists(st.tuples(texts, st.integers(1, 3)), min_size=3, max_size=40), seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_held_out_share_goes_by_document_and_not_by_position(rows: list[tuple[str, int]], seed: int) -> None:
    documents = [f"{text} {number}" for number, (text, count) in enumerate(rows) for _ in range(count)]
    shuffled = random.Random(seed).sample(documents, len(documents))
    sides = []
    with TemporaryDirectory() as name:
        for order in (documents, shuffled):
            write_rows(Path(name) / "train.jsonl", *({"text": text} for text in order))
            run = run_of(Path(name), held_out_share=0.4, seed=seed, max_document_bytes=16)
            of_document: dict[str, set[corpus_reading.Side]] = {}
            for piece in corpus_reading.pieces(run):
                number = int(piece.document.doc_id.partition(":")[2].partition("#")[0])
                of_document.setdefault(order[number - 1], set()).add(piece.side)
            # Doubles and all pieces of a document are on one side.
            assert all(len(found) == 1 for found in of_document.values())
            sides.append(of_document)
    assert sides[0] == sides[1]


def test_a_held_out_share_holds_out_about_that_share_and_another_one_with_another_seed(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", *({"text": f"document {i}"} for i in range(2000)))
    one, other = (documents_of(run_of(tmp_path, held_out_share=0.1, seed=seed)) for seed in (0, 1))
    for train, held_out, _ in (one, other):
        assert len(train) + len(held_out) == 2000
        assert 140 < len(held_out) < 260
    assert {d.text for d in one[1]} != {d.text for d in other[1]}
    with pytest.raises(CorpusError, match=r"held_out_share: 1e-09 of 2000 documents held none out"):
        documents_of(run_of(tmp_path, held_out_share=1e-9))


def test_a_sample_is_a_function_of_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", *({"text": f"document {i}"} for i in range(50)))
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    one, _, _ = documents_of(run_of(tmp_path, max_train_documents=10))
    other, _, _ = documents_of(run_of(tmp_path, max_train_documents=10))
    third, _, _ = documents_of(run_of(tmp_path, max_train_documents=10, seed=1))
    assert one == other != third
    numbers = [int(document.text.split()[1]) for document in one]
    assert len(numbers) == 10
    assert numbers == sorted(numbers)


def test_held_out_documents_that_the_sample_leaves_out_are_not_trained_on(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", *({"text": f"document {i}"} for i in range(40)))
    write_rows(tmp_path / "held_out.jsonl", *({"text": f"document {i}"} for i in range(30)))
    train, held_out, _ = documents_of(run_of(tmp_path, max_held_out_documents=3))
    assert len(held_out) == 3
    assert {document.text for document in train} == {f"document {i}" for i in range(30, 40)}


def test_folders_text_files_and_compressed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "texts/inner").mkdir(parents=True)
    (tmp_path / "texts/inner/a.txt").write_text("from a folder")
    (tmp_path / "plain.txt").write_text("from a file")
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(b'{"body": "from gzip"}\n\n'))
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    files = [
        {"path": "texts", "domain": "f"},
        {"path": "plain.txt"},
        {"path": "lines.jsonl.gz", "text_column": "body"},
    ]
    train, _, _ = documents_of(run_of(tmp_path, files))
    assert [d.text for d in train] == ["from a folder", "from a file", "from gzip"]
    assert train[0].domain == "f"


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40), shard_bytes=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_shards_hold_the_documents_in_order_up_to_their_bytes(sizes: list[int], shard_bytes: int) -> None:
    written = [f"{number:02d}"[:size].ljust(size, chr(0x61 + number % 26)) for number, size in enumerate(sizes)]
    with TemporaryDirectory() as name:
        folder, store = Path(name), Store(str(Path(name) / "store"))
        write_rows(folder / "train.jsonl", *({"text": text} for text in written))
        write_rows(folder / "held_out.jsonl", {"text": "held out"})
        train, _, corpora = published(run_of(folder, shard_bytes=shard_bytes, max_document_bytes=32), store)
        names = [corpus_shard(corpora.train.digest, shard) for shard in range(corpora.train.shards)]
        of_shards = [shards.read_corpus(store.read(name)) for name in names]
    assert [d.text for d in train] == list(dict.fromkeys(written))
    assert corpora.train.bytes == sum(len(d.text) for d in train)
    held = [sum(len(d.text.encode()) for d in rows) for rows in of_shards]
    assert all(size <= shard_bytes or len(rows) == 1 for size, rows in zip(held, of_shards, strict=True))
    following = [len(rows[0].text.encode()) for rows in of_shards[1:]]
    # No shard is cut early.
    assert all(size + first > shard_bytes for size, first in zip(held, following, strict=False))


def test_shards_are_written_once_and_the_index_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "train.jsonl", *({"text": f"document {i}", "domain": "zyx"[i % 3]} for i in range(9)))
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    run, store = run_of(tmp_path, shard_bytes=25), Store(str(tmp_path / "store"))
    train, _, first = published(run, store)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "store/corpora").rglob("*.parquet")}

    def refuse(*_: Any) -> None:
        raise AssertionError("texts were read")

    monkeypatch.setattr(corpus, "scan", refuse)
    monkeypatch.setattr(corpus, "pieces", refuse)
    again, _, second = published(run, store)
    assert again == train
    assert second.found is None
    assert (second.train, second.held_out, second.removed, second.longest) == (
        first.train,
        first.held_out,
        first.removed,
        first.longest,
    )
    assert list(second.train.domains) == ["z", "y", "x"]
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1, "max_train_documents": 4},
        {"max_document_bytes": 64},
        {"shard_bytes": 30},
        {"train": [{"path": "train.jsonl", "domain": "d"}]},
    ],
)
def test_other_settings_are_another_reading(tmp_path: Path, change: dict[str, Any]) -> None:
    write_rows(tmp_path / "train.jsonl", *({"text": f"document {i}"} for i in range(9)))
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    store = Store(str(tmp_path / "store"))
    published(run_of(tmp_path), store)
    assert open_corpora(run_of(tmp_path, **change), store).found is not None
    assert open_corpora(run_of(tmp_path), store).found is None


def test_a_changed_file_is_read_again_and_an_unchanged_text_keeps_its_digest(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", {"text": "a"}, {"text": "b"})
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    store = Store(str(tmp_path / "store"))
    _, _, first = published(run_of(tmp_path), store)
    content = (tmp_path / "train.jsonl").read_bytes()
    (tmp_path / "train.jsonl").write_bytes(content)
    touched = open_corpora(run_of(tmp_path), store)
    assert touched.found is not None
    assert touched.train == first.train
    (tmp_path / "train.jsonl").write_bytes(content.replace(b'"b"', b'"c"'))
    assert open_corpora(run_of(tmp_path), store).train.digest != first.train.digest


def test_ids_and_domains_are_in_the_digest(tmp_path: Path) -> None:
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    digests = set()
    for rows in ([{"text": "a"}], [{"text": "a", "domain": "x"}], [{"text": " "}, {"text": "a"}]):
        write_rows(tmp_path / "train.jsonl", *rows)
        digests.add(open_corpora(run_of(tmp_path), None).train.digest)
    assert len(digests) == 3


def test_a_missing_shard_is_written_again_from_the_files(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", *({"text": f"document {i}"} for i in range(9)))
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    run, store = run_of(tmp_path, shard_bytes=25), Store(str(tmp_path / "store"))
    train, _, corpora = published(run, store)
    name = corpus_shard(corpora.train.digest, 2)
    before = store.read(name)
    store.discard(name)
    again, _, _ = published(run, store)
    assert again == train
    assert store.read(name) == before


def test_files_that_change_between_the_readings_are_refused_and_leave_no_index(tmp_path: Path) -> None:
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    whole = [{"text": f"document {i}"} for i in range(9)]
    changes = {"1": whole[:-1], "2": [*whole, {"text": "one more"}], "3": [*whole[:4], {"text": "another"}, *whole[5:]]}
    for name, changed in changes.items():
        write_rows(tmp_path / "train.jsonl", *whole)
        run, store = run_of(tmp_path, shard_bytes=25), Store(str(tmp_path / name))
        corpora = open_corpora(run, store)
        write_rows(tmp_path / "train.jsonl", *changed)
        with pytest.raises(CorpusError, match=r"run\.yaml: files .* were changed while they were read"):
            publish_corpora(run, corpora, store)
        assert not (tmp_path / name / "readings").exists()
        for path in (tmp_path / name / "corpora").rglob("*.parquet"):
            # What is there already is right.
            assert shards.read_corpus(path.read_bytes())


def test_a_reading_that_is_broken_off_is_taken_up_and_no_shard_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "train.jsonl", *({"text": f"document {i}"} for i in range(9)))
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    run = run_of(tmp_path, shard_bytes=25)
    whole, _, _ = published(run, Store(str(tmp_path / "whole")))
    store = Store(str(tmp_path / "store"))
    corpora = open_corpora(run, store)

    def interrupt(_title: str, amount: int, _total: int, _unit: str) -> None:
        if amount == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_corpora(run, corpora, store, interrupt)
    assert open_corpora(run, store).found is not None
    again, _, _ = published(run, store)
    assert again == whole


def test_reading_and_writing_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_reading, "_REPORT_EVERY_S", -1.0)
    write_rows(tmp_path / "train.jsonl", *({"text": f"document {i}"} for i in range(500)))
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    told: list[tuple[str, int, int, str]] = []
    run, store = run_of(tmp_path, shard_bytes=1000), Store(str(tmp_path / "store"))
    corpora = open_corpora(run, store, lambda *line: told.append(line))
    size = (tmp_path / "train.jsonl").stat().st_size
    read = [line for line in told if line[0] == "read train.jsonl"]
    assert {(total, unit) for _, _, total, unit in read} == {(size, "bytes")}
    amounts = [amount for _, amount, _, _ in read]
    assert amounts == sorted(amounts)
    assert amounts[-1] == size
    publish_corpora(run, corpora, store, lambda *line: told.append(line))
    assert told[-1] == ("corpus", corpora.train.shards + 1, corpora.train.shards + 1, "shards")


def test_the_documents_with_most_likely_tokens_are_among_those_that_are_used(tmp_path: Path) -> None:
    rows = [{"text": f"{i:03d} " + "word " * (i % 50)} for i in range(400)]
    write_rows(tmp_path / "train.jsonl", *rows, {"text": "щ" * 120}, {"text": "щ" * 120})
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    _, _, corpora = documents_of(run_of(tmp_path))
    likely = [likely_tokens(document.text) for document in corpora.longest]
    assert likely == sorted(likely, reverse=True)
    assert corpora.longest[0].text == "щ" * 120
    assert len(corpora.longest) == 64
    train, held_out, sampled = documents_of(run_of(tmp_path, max_train_documents=20))
    assert Counter(sampled.longest) <= Counter([*train, *held_out])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"train.jsonl:2: expected a JSON object with text in 'text'"),
        ('{"text": ["a"]}', r"train.jsonl:2: expected text in 'text', got a list"),
        ('{"text": 3}', r"train.jsonl:2: "),
        ('{"text": "\\ud800"}', r"train.jsonl:2: .*surrogates"),
        ("[1]", r"train.jsonl:2: "),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "good"}\n' + line)
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    with pytest.raises(CorpusError, match=says):
        documents_of(run_of(tmp_path))
    assert not (tmp_path / "own-store").exists()


def test_missing_files_blank_files_and_text_that_is_all_held_out_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"})
    with pytest.raises(CorpusError, match=r"train.jsonl: no such file"):
        documents_of(run_of(tmp_path))
    write_rows(tmp_path / "train.jsonl", {"text": "  \n"})
    with pytest.raises(CorpusError, match=r"train.jsonl: no text in it"):
        documents_of(run_of(tmp_path))
    write_rows(tmp_path / "train.jsonl", {"text": "h"})
    with pytest.raises(CorpusError, match="nothing is left to train on"):
        documents_of(run_of(tmp_path))
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(CorpusError, match="not readable as UTF-8"):
        documents_of(run_of(tmp_path))

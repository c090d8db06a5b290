"""Files of every kind: the same documents, the same corpus; and what is said about damaged ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fusery.config.run import CorpusFile, RunConfig
from fusery.hops.store.shards import CorpusDocument
from fusery.run.corpus import formats as corpus_formats
from fusery.run.corpus.formats import read_path
from fusery.runtime.errors import CorpusError
from support.runs.corpus_runs import documents_of, run_of

Row = tuple[str, str]
"""Text and domain."""

rows = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8"), max_size=40).filter(lambda text: text.strip() != ""),
        st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=12,
)


def json_lines(documents: Sequence[Row]) -> bytes:
    lines = (json.dumps({"text": text, "domain": domain}, ensure_ascii=False) for text, domain in documents)
    return "".join(f"{line}\n" for line in lines).encode()


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def write_parquet(path: Path, documents: Sequence[Row], **columns: Any) -> None:
    texts, domains = [row[0] for row in documents], [row[1] for row in documents]
    pq.write_table(pa.table({"text": texts, "domain": domains, **columns}), path, row_group_size=3)


def entry(path: str, **fields: Any) -> CorpusFile:
    return CorpusFile.model_validate({"path": path, **fields})


def read(path: Path, label: str = "0", **fields: Any) -> list[CorpusDocument]:
    return list(read_path(path, entry(str(path), **fields), label))


@given(documents=rows)
@example(documents=[("a\r\nb\n", "x"), ("\ufeffc\u2028d\x85", "y")])
def test_documents_are_the_same_in_the_same_order_whatever_kind_of_file_holds_them(documents: list[Row]) -> None:
    content = json_lines(documents)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "d.jsonl").write_bytes(content)
        (folder / "d.jsonl.gz").write_bytes(gzip.compress(content))
        (folder / "d.jsonl.zst").write_bytes(zstd(content))
        write_parquet(folder / "d.parquet", documents)
        found = [read(folder / name) for name in ("d.jsonl", "d.jsonl.gz", "d.jsonl.zst", "d.parquet")]
        for index, (text, _) in enumerate(documents):
            (folder / "texts" / f"{index:04}").mkdir(parents=True)
            (folder / "texts" / f"{index:04}" / "text").write_bytes(text.encode())
        as_texts = read(folder / "texts")
    assert [(document.text, document.domain) for document in found[0]] == documents
    assert all(other == found[0] for other in found[1:])
    # A byte order mark at the head of a file is no text of it.
    bare = [text.removeprefix("\ufeff") for text, _ in documents]
    assert [document.text for document in as_texts] == [text for text in bare if text.strip()]


@given(documents=rows, parts=st.integers(1, 4))
def test_a_folder_reads_files_of_all_kinds_in_the_order_of_their_paths(documents: list[Row], parts: int) -> None:
    size = -(-len(documents) // parts)
    pieces = [documents[start : start + size] for start in range(0, len(documents), size)]
    kinds: list[tuple[str, Callable[[Path, list[Row]], object]]] = [
        ("jsonl", lambda path, piece: path.write_bytes(json_lines(piece))),
        ("parquet", write_parquet),
        ("jsonl.zst", lambda path, piece: path.write_bytes(zstd(json_lines(piece)))),
        ("jsonl.gz", lambda path, piece: path.write_bytes(gzip.compress(json_lines(piece)))),
    ]
    with TemporaryDirectory() as name:
        # Written last first: the order on disk decides nothing.
        for index, piece in reversed(list(enumerate(pieces))):
            suffix, write = kinds[index]
            write(Path(name) / f"{index}.{suffix}", piece)
        found = read(Path(name), label="7-folder")
    assert [(document.text, document.domain) for document in found] == documents
    assert len({document.doc_id for document in found}) == len(found)
    assert found[0].doc_id == "7-folder/0.jsonl:1"


def test_a_domain_column_of_ones_own_is_in_the_runs_digest(tmp_path: Path) -> None:
    one, other = (run_of(tmp_path, [{"path": "a", "domain_column": name}]).config for name in ("domain", "kind"))
    assert one.digest() != other.digest()
    assert RunConfig.model_validate(other.model_dump()) == other


def test_duplicates_are_found_across_kinds(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [("a", "x"), ("h", "x"), ("b", "x")])
    (tmp_path / "more.jsonl.zst").write_bytes(zstd(json_lines([("b", "y"), ("c", "y")])))
    (tmp_path / "held_out.jsonl").write_bytes(json_lines([("h", "x")]))
    train, _, corpora = documents_of(run_of(tmp_path, [{"path": "train.parquet"}, {"path": "more.jsonl.zst"}]))
    assert [document.text for document in train] == ["a", "b", "c"]
    assert (corpora.removed.duplicates, corpora.removed.held_out) == (1, 1)


def test_any_column_can_hold_the_domain(tmp_path: Path) -> None:
    write_parquet(tmp_path / "d.parquet", [("a", "x"), ("b", "x")], kind=pa.array([1, 2]))
    (tmp_path / "d.jsonl").write_text('{"text": "a", "kind": 1}\n{"text": "b", "kind": 2}')
    for name in ("d.parquet", "d.jsonl"):
        assert [document.domain for document in read(tmp_path / name, domain_column="kind")] == ["1", "2"]
        assert [document.domain for document in read(tmp_path / name, domain="all of it")] == ["all of it"] * 2


def test_rows_may_lack_the_default_domain_but_not_one_that_is_chosen(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "domain": ["x", None], "kind": ["x", None]}), tmp_path / "d.parquet")
    (tmp_path / "d.jsonl").write_text('{"text": "a", "kind": "x"}\n{"text": "b"}')
    assert [document.domain for document in read(tmp_path / "d.parquet")] == ["x", "all"]
    with pytest.raises(CorpusError, match=r"d\.parquet: row 2: expected a domain in 'kind'"):
        read(tmp_path / "d.parquet", domain_column="kind")
    with pytest.raises(CorpusError, match=r"d\.jsonl:2: expected a domain in 'kind'"):
        read(tmp_path / "d.jsonl", domain_column="kind")
    with pytest.raises(CorpusError, match=r"no column 'sort'; it has text, domain, kind; set domain_column"):
        read(tmp_path / "d.parquet", domain_column="sort")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_text_columns_of_every_string_type_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(["a", "b", "a"]).cast(kind)}), tmp_path / "d.parquet")
    assert [document.text for document in read(tmp_path / "d.parquet")] == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"body": ["a"]}, r"no column 'text'; it has body; set text_column"),
        ({"text": [1]}, r"column 'text' is int64, expected strings"),
        ({"text": ["a"], "domain": [["x"]]}, r"column 'domain' is list<.*>, expected strings, numbers or booleans"),
        ({"text": ["a"], "domain": [{"x": 1}]}, r"column 'domain' is struct<.*>, expected strings"),
    ],
)
def test_parquet_without_text_is_refused(tmp_path: Path, columns: dict[str, list[Any]], says: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    with pytest.raises(CorpusError, match=rf"d\.parquet: {says}"):
        read(tmp_path / "d.parquet")


def test_parquet_rows_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    broken = pa.array([b"good", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "d.parquet")
    with pytest.raises(CorpusError, match=r"d\.parquet: row 2: not readable as UTF-8"):
        read(tmp_path / "d.parquet")


@pytest.mark.parametrize("name", ["d.jsonl.gz", "d.jsonl.zst", "d.parquet", "d.txt.gz", "d.txt.zst"])
def test_a_file_that_is_cut_off_or_of_another_kind_is_refused_and_not_read_in_part(tmp_path: Path, name: str) -> None:
    path, documents = tmp_path / name, [(f"document {i} {i * i % 97}", "x") for i in range(500)]
    if name.endswith(".parquet"):
        write_parquet(path, documents)
    else:
        path.write_bytes((gzip.compress if name.endswith(".gz") else zstd)(json_lines(documents)))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-5], b"just text\n"):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=rf"{name}(:\d+)?: not readable"):
            read(path)


def test_zst_files_of_several_frames_are_read_to_the_end(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    (tmp_path / "d.jsonl.zst").write_bytes(zstd(json_lines([("a", "x")])) + skippable + zstd(json_lines([("b", "x")])))
    assert [document.text for document in read(tmp_path / "d.jsonl.zst")] == ["a", "b"]


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.jsonl.zst"])
def test_a_line_over_the_limit_is_refused_with_its_number(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_formats, "MAX_LINE_BYTES", 100)
    content = b'{"text": "good"}\n' + b" " * 101 + b"\n"
    pack = {"d.jsonl": bytes, "d.jsonl.gz": gzip.compress, "d.jsonl.zst": zstd}[name]
    (tmp_path / name).write_bytes(pack(content))
    with pytest.raises(CorpusError, match=rf"{name}:2: the line has more than 100 bytes"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(pack(content.replace(b" " * 3, b"")))
    assert [document.text for document in read(tmp_path / name)] == ["good"]


@pytest.mark.parametrize(("name", "pack"), [("d.txt.gz", gzip.compress), ("d.txt.zst", zstd)])
def test_a_small_file_that_unpacks_to_a_huge_text_is_refused(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_formats, "MAX_UNPACKED_TEXT_BYTES", 10_000)
    (tmp_path / name).write_bytes(pack(b"a" * 10_000))
    assert read(tmp_path / name) == [CorpusDocument("0", "all", "a" * 10_000)]
    (tmp_path / name).write_bytes(pack(b"a" * 10_001))
    with pytest.raises(CorpusError, match="unpacks to more than 10000 bytes"):
        read(tmp_path / name)


def test_bytes_that_are_not_utf_8_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "good"}\n{"text": "\xff"}')
    with pytest.raises(CorpusError, match=r"d\.jsonl:2: not readable as UTF-8 text"):
        read(tmp_path / "d.jsonl")


def test_an_empty_domain_means_none(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(json_lines([("a", "x")]))
    assert read(tmp_path / "d.jsonl", domain="")[0].domain == "x"

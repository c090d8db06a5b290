"""Files as people have them: endings, packings, encodings, what stands beside them, columns with anything in them."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.config.run import CorpusFile
from fusery.hops.store.shards import CorpusDocument
from fusery.hops.store.store import Store
from fusery.run.corpus import formats as corpus_formats
from fusery.run.corpus import rows as corpus_rows
from fusery.run.corpus.corpora import open_corpora, publish_corpora
from fusery.run.corpus.formats import read_path
from fusery.run.corpus.rows import Meter
from fusery.runtime.errors import CorpusError
from support.runs.corpus_runs import documents_of, run_of, write_rows

ROWS = [{"text": "first\nline", "domain": "x"}, {"text": 'second, "quoted"\t东', "domain": "y"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def table(delimiter: str) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["domain", "text"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return stream.getvalue().encode()


def parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


FORMS: dict[str, bytes] = {
    "jsonl": LINES,
    "ndjson": LINES,
    "json": LINES,
    "JSONL": LINES.replace(b"\n", b"\r\n"),
    "json list": json.dumps(ROWS).encode(),
    "jsonl list over lines": json.dumps(ROWS, indent=2).encode(),
    "json objects over lines": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    "Json objects on one line": b" ".join(json.dumps(row).encode() for row in ROWS),
    "csv": table(","),
    "CSV": table(","),
    "tsv": table("\t"),
    "parquet": parquet(text=[row["text"] for row in ROWS], domain=[row["domain"] for row in ROWS]),
    "PARQUET": parquet(domain=[row["domain"] for row in ROWS], text=[row["text"] for row in ROWS]),
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".GZIP": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
    ".ZSTD": zstd,
}


def read(path: Path, meter: Meter | None = None, **fields: Any) -> list[CorpusDocument]:
    return list(read_path(path, CorpusFile.model_validate({"path": str(path), **fields}), "0", meter))


def skipped(path: Path, **fields: Any) -> dict[str, int]:
    meter = Meter()
    read(path, meter, **fields)
    return dict(meter.skipped)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("form", FORMS)
def test_rows_are_the_same_in_every_form_ending_and_packing(tmp_path: Path, form: str, packing: str) -> None:
    path = tmp_path / f"rows.{form.split()[0]}{packing}"
    path.write_bytes(PACKINGS[packing](FORMS[form]))
    if "parquet" in form.lower() and packing:
        with pytest.raises(CorpusError, match="a packed Parquet file is not read"):
            read(path)
        return
    assert [{"text": d.text, "domain": d.domain} for d in read(path)] == ROWS
    assert read(tmp_path)[0].text == ROWS[0]["text"]


@pytest.mark.parametrize("name", ["d.jsonl.xz", "d.jsonl.lzma", "d.jsonl.bz2"])
def test_packed_files_of_several_streams_are_read_to_the_end_and_cut_ones_are_not(tmp_path: Path, name: str) -> None:
    def pack(content: bytes) -> bytes:
        if name.endswith(".bz2"):
            return bz2.compress(content)
        return lzma.compress(content, lzma.FORMAT_ALONE if name.endswith(".lzma") else lzma.FORMAT_XZ)

    path, padding = tmp_path / name, b"\0" * 8 if name.endswith(".xz") else b""
    many = "".join(f'{{"text": "document {number}"}}\n' for number in range(20_000)).encode()
    path.write_bytes(pack(many) + padding + pack(LINES) + padding)
    assert len(read(path)) == 20_002
    path.write_bytes(pack(many)[:-20])
    with pytest.raises(CorpusError, match="not readable"):
        read(path)
    path.write_bytes(b"just words, no such file")
    with pytest.raises(CorpusError, match="not readable"):
        read(path)


def test_an_xz_file_that_asks_for_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.jsonl.xz").write_bytes(lzma.compress(LINES, preset=9))
    assert len(read(tmp_path / "d.jsonl.xz")) == 2
    monkeypatch.setattr(corpus_formats, "_MOST_XZ_BYTES", 32 * 2**20)
    with pytest.raises(CorpusError, match="not readable: Memory usage limit exceeded; compress it again"):
        read(tmp_path / "d.jsonl.xz")


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("name", ["d.txt", "d.jsonl", "d.json", "d.csv", "d"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str, packing: str) -> None:
    content = {"d.txt": "ü".encode(), "d": "ü".encode(), "d.csv": "text\nü\n".encode()}.get(
        name, '{"text": "ü"}'.encode()
    )
    path = tmp_path / f"{name}{packing}"
    path.write_bytes(PACKINGS[packing](b"\xef\xbb\xbf" + content))
    assert [document.text for document in read(path)] == ["ü"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-16-le without a mark"])
@pytest.mark.parametrize("name", ["d.txt", "d.jsonl", "d.csv", "d.txt.gz"])
def test_other_encodings_are_refused_with_the_command_that_helps(tmp_path: Path, name: str, encoding: str) -> None:
    encoding, _, is_bare = encoding.partition(" ")
    content = ("\ufeff" if encoding == "utf-16-be" and not is_bare else "") + '{"text": "ü"}\n'
    (tmp_path / name).write_bytes(PACKINGS[".gz" if name.endswith(".gz") else ""](content.encode(encoding)))
    with pytest.raises(CorpusError, match=r"not readable as UTF-8 text: its byte order mark.* iconv"):
        read(tmp_path)


@pytest.mark.parametrize("values", [[None], [float("nan")], [""], ["  "], "absent"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_row_without_a_domain_is_of_the_domain_all(tmp_path: Path, kind: str, values: Any) -> None:
    row = {"text": "a"} if values == "absent" else {"text": "a", "domain": values[0]}
    path = tmp_path / f"d.{kind}"
    if kind == "parquet":
        path.write_bytes(parquet(**{key: [value] for key, value in row.items()}))
    elif kind == "csv":
        shown = ["" if value is None or value != value else value for value in row.values()]
        path.write_text(",".join(row) + "\n" + ",".join(shown) + "\n")
    else:
        write_rows(path, row)
    assert read(path) == [CorpusDocument(read(path)[0].doc_id, "all", "a")]


@pytest.mark.parametrize(("value", "domain"), [(True, "true"), (False, "false"), (3, "3"), (1.5, "1.5"), ("C#", "C#")])
def test_numbers_and_booleans_are_domains_in_every_form(tmp_path: Path, value: object, domain: str) -> None:
    write_rows(tmp_path / "d.jsonl", {"text": "a", "domain": value})
    (tmp_path / "d.json").write_text(json.dumps([{"text": "a", "domain": value}]))
    (tmp_path / "d.parquet").write_bytes(parquet(text=["a"], domain=[value]))
    assert [document.domain for document in read(tmp_path)] == [domain] * 3


@pytest.mark.parametrize("value", [{"name": "x"}, ["x"], {}, []])
def test_objects_and_lists_are_no_domains(tmp_path: Path, value: object) -> None:
    write_rows(tmp_path / "d.jsonl", {"text": "a", "domain": "x"}, {"text": "b", "domain": value})
    with pytest.raises(CorpusError, match=r"d\.jsonl:2: expected a domain .* got (an object|a list); set"):
        read(tmp_path / "d.jsonl")
    assert len(read(tmp_path / "d.jsonl", domain="x")) == 2


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_rows_without_text_are_left_out_and_counted(tmp_path: Path, kind: str) -> None:
    texts = ["a", None, "", " \n", "b"]
    path = tmp_path / f"d.{kind}"
    rows = [{"text": text, "n": 1} for text in texts]
    content = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in [*rows, {"n": 2}]).encode(),
        "json": json.dumps([*rows, {"n": 2}]).encode(),
        "csv": b'text,n\na,1\n,1\n,1\n" \n",1\n\nb,1\n,2\n',
        "parquet": parquet(text=[*texts, None]),
    }
    path.write_bytes(content[kind])
    assert [document.text for document in read(path)] == ["a", "b"]
    assert skipped(path) == {"rows without text": 4}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("d.jsonl", b'{"body": "a"}\n{"body": "b"}\n', r"d\.jsonl:1: .*got the keys 'body', .*set text_column"),
        ("d.json", b'{"data": [{"text": "a"}]}', r"d\.json:1: .*got the keys 'data'"),
        ("d.json", b'["a", "b"]', r"d\.json:1: expected a JSON object .* got \"a\""),
        ("d.json", b'[{"text": "a"}\n, 3]', r"d\.json:2: expected a JSON object"),
        ("d.json", b'[{"text": "a"},\n {"text": "b"', r"d\.json:2: expected JSON lines, or one list"),
        ("d.json", b'[{"text": "a"},', r"d\.json:1: expected JSON lines, or one list"),
        ("d.json", b"[" * 100_000, r"d\.json:1: (expected|not JSON)"),
        ("d.json", b'[{"text": ' + b"[" * 100_000, r"d\.json:1: not JSON: nested too deeply"),
        ("d.jsonl", b'{"text": "a"}\n{"text": ' + b"[" * 100_000 + b"\n", r"d\.jsonl:2: .*nested too deeply"),
        ("d.jsonl", b'"a"\n"b"\n', r"d\.jsonl:1: expected a JSON object"),
        ("d.json", b"just words", r"d\.json:1: expected JSON lines"),
        ("d.csv", b"body,n\na,1\n", r"d\.csv:1: expected a header with one column 'text', got 'body', 'n'"),
        ("d.csv", b"text;domain\na;x\n", r"d\.csv:1: expected a header"),
        ("d.csv", b"text,text\na,b\n", r"d\.csv:1: expected a header with one column"),
        ("d.csv", b"text,n\na,1,2\n", r"d\.csv:2: 3 fields, the header has 2"),
        ("d.csv", b"text,n\na\n", r"d\.csv:2: 1 fields, the header has 2"),
        ("d.csv", b'text,n\n"a,1\n', r"d\.csv:2: not readable as CSV"),
        ("d.csv", b"text\n\xff\n", r"d\.csv:2: not readable as UTF-8"),
        ("d.zip", b"PK", r"d\.zip: \.zip files are not read; unpack it"),
        ("d.tar.gz", b"x", r"d\.tar\.gz: \.tar files are not read"),
        ("d.arrow", b"ARROW1", r"\.arrow files are not read; write its rows as Parquet .* hf:\./FOLDER"),
        ("d.PDF", b"%PDF", r"\.pdf files are not read; extract its text"),
        ("d.parquet", b"", r"d\.parquet: not readable as Parquet"),
        ("part-00000", b'{"text": "a", "domain": "x"}\n', r"its first line is a row of JSON .* format: json"),
        ("d.json.txt", b'[{"text": "a"}]', r"its first line is a row of JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_as_rows_or_text_is_refused_with_a_hint(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=says) as raised:
        read(tmp_path / name)
    assert len(str(raised.value)) < 600


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("pointer", [POINTER, b"/annex/objects/SHA256E-s1--ab.txt\n"])
@pytest.mark.parametrize("name", ["d.txt", "d.jsonl", "d.csv", "d.parquet", "d.jsonl.gz", "d"])
def test_a_pointer_is_not_the_file(tmp_path: Path, name: str, pointer: bytes) -> None:
    (tmp_path / name).write_bytes(pointer)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CorpusError, match=rf"{name}: a pointer of Git LFS or git-annex, .* git lfs pull"):
            read(path)


def test_a_folder_as_downloaded_from_a_hub_gives_its_rows_only(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_bytes(LINES)
    (tmp_path / ".cache/huggingface/download").mkdir(parents=True)
    (tmp_path / ".cache/huggingface/download/train.jsonl.metadata").write_text("commit\netag\n1\n")
    for name in ("README.md", ".gitattributes", "dataset_infos.json", "LICENSE", "LICENSE.txt", "CITATION.cff"):
        (tmp_path / name).write_text("words\n")
    assert len(read(tmp_path)) == 2
    assert skipped(tmp_path) == {"dot files and folders": 2, "files about a dataset": 5}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (".DS_Store", b"\x00\x00\x00\x01Bud1\xff", "dot files and folders"),
        ("inner/.DS_Store", b"\x00\x00\x00\x01Bud1\xff", "dot files and folders"),
        ("._a.txt", b"\x00\x05\x16\x07\xff", "dot files and folders"),
        (".git/objects/ab/cdef", b"x\x9c\xff", "dot files and folders"),
        (".ipynb_checkpoints/a.txt", b"old", "dot files and folders"),
        (".part-00000.txt.crc", b"crc\x00\xff", "dot files and folders"),
        ("part-00000.txt.crc", b"crc\x00\xff", "files that tools leave"),
        ("_SUCCESS", b"", "files that tools leave"),
        ("_committed_123", b"{}", "files that tools leave"),
        ("_metadata", b"PAR1", "files that tools leave"),
        ("_temporary/0/a.txt", b"half", "files that tools leave"),
        ("__pycache__/a.pyc", b"\xa7\r\x00", "files that tools leave"),
        ("__MACOSX/a.txt", b"\x00", "files that tools leave"),
        ("Thumbs.db", b"\xd0\xcf\x00", "files that tools leave"),
        ("plot.png", b"\x89PNG\r\n\x1a\n\x00", "binary files"),
        ("module.so", b"\x7fELF\x00\xff", "binary files"),
        ("empty.txt", b"", "empty files"),
        ("blank.md", b" \n\n", "empty files"),
        ("empty.jsonl", b"", "empty files"),
        ("empty.csv", b"", "empty files"),
        ("package.json", b'{\n  "name": "x"\n}\n', "JSON files without rows"),
        ("README.md", b"---\nlicense: mit\n---\n# Card\n", "files about a dataset"),
    ],
)
def test_what_is_no_document_does_not_end_the_reading_and_is_counted(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / "a.txt").write_text("a document")
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert [document.text for document in read(tmp_path)] == ["a document"]
    assert skipped(tmp_path) == {reason: 1}


def test_a_folder_of_code_keeps_what_is_text(tmp_path: Path) -> None:
    texts = {
        "__init__.py": "import a",
        "_helper.py": "b = 1",
        "README.md": "# Words",
        "LICENSE": "MIT",
        "x.jl": "c = 2",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert sorted(document.text for document in read(tmp_path)) == sorted(texts.values())
    (tmp_path / "settings.json").write_text('{"a": 1}')
    assert len(read(tmp_path, format="text")) == 6


def test_a_file_that_is_named_itself_is_read_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / ".hidden.txt").write_text("read")
    assert [document.text for document in read(tmp_path / ".hidden.txt")] == ["read"]
    (tmp_path / "rows").write_bytes(LINES)
    assert len(read(tmp_path / "rows", format="json")) == 2
    assert len(read(tmp_path / "rows", format="text")) == 1
    (tmp_path / "corpus.jsonl-00001-of-00010").write_bytes(LINES)
    assert len(read(tmp_path / "corpus.jsonl-00001-of-00010")) == 2


def test_a_link_to_nothing_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").symlink_to(tmp_path / "blobs/gone")
    with pytest.raises(CorpusError, match=r"b\.txt: a link to nothing"):
        read(tmp_path)


def test_a_linked_folder_is_read_once_and_a_loop_ends(tmp_path: Path) -> None:
    (tmp_path / "data/inner").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.txt").write_text("b")
    (tmp_path / "data/a.txt").write_text("a")
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/inner/back").symlink_to(tmp_path / "data")
    assert [document.text for document in read(tmp_path / "data")] == ["a", "b"]


def test_a_delta_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table/_delta_log").mkdir(parents=True)
    (tmp_path / "table/part-0.parquet").write_bytes(parquet(text=["deleted"]))
    with pytest.raises(CorpusError, match=r"table: a Delta table, whose files also hold rows that were deleted"):
        read(tmp_path)


def test_text_in_another_encoding_ends_the_reading(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_bytes("Käse".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"b\.txt: not readable as UTF-8"):
        read(tmp_path)


def test_folders_that_name_a_column_give_the_domain(tmp_path: Path) -> None:
    for domain, name in [("code", "a.parquet"), ("C%23%2F%20", "b.jsonl"), ("__HIVE_DEFAULT_PARTITION__", "c.csv")]:
        (tmp_path / f"domain={domain}" / "year=2024").mkdir(parents=True)
        path = tmp_path / f"domain={domain}" / "year=2024" / name
        content = {"a.parquet": parquet(text=["a"]), "b.jsonl": b'{"text": "b"}', "c.csv": b"text\nc\n"}
        path.write_bytes(content[name])
    (tmp_path / "domain=code/d.txt").write_text("d")
    found = {document.text: document.domain for document in read(tmp_path)}
    assert found == {"a": "code", "b": "C#/ ", "c": "all", "d": "code"}
    by_year = read(tmp_path / "domain=code", domain_column="year")[-1]
    assert by_year.domain == "2024"
    assert {document.domain for document in read(tmp_path / "domain=code")} == {"code"}
    assert {document.domain for document in read(tmp_path / "domain=code/d.txt")} == {"code"}
    assert {document.domain for document in read(tmp_path, domain="one")} == {"one"}


def test_names_that_are_not_utf_8_give_ids_that_are(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt")).write_text("a")
    (document,) = read(tmp_path)
    assert document.doc_id == "0/caf\\xe9.txt"


def test_what_was_skipped_stands_in_the_index_and_in_the_message_of_an_empty_corpus(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/.hidden").write_text("x")
    write_rows(tmp_path / "held_out.jsonl", {"text": "h"}, {"text": None})
    with pytest.raises(CorpusError, match=r"texts: no text in it; .*skipped: 1 dot files and folders"):
        documents_of(run_of(tmp_path, [{"path": "texts"}]))
    (tmp_path / "texts/a.txt").write_text("a")
    run, store = run_of(tmp_path, [{"path": "texts"}]), Store(str(tmp_path / "store"))
    corpora = open_corpora(run, store)
    publish_corpora(run, corpora, store)
    again = open_corpora(run, store)
    assert again.found is None
    assert again.skipped == corpora.skipped == {"rows without text": 1, "dot files and folders": 1}
    (tmp_path / "texts/.another").write_text("x")
    assert open_corpora(run, store).skipped["dot files and folders"] == 2


names = st.text(st.characters(codec="utf-8"), max_size=6)
values = st.none() | st.booleans() | st.integers() | names | st.lists(st.integers(), max_size=2)


@given(rows=st.lists(st.dictionaries(names, values, max_size=3), min_size=1, max_size=9), chunk=st.integers(1, 40))
def test_a_list_is_read_like_lines_wherever_the_reads_end(
    rows: list[dict[str, Any]], chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    documents = [row | {"text": f"text {number}"} for number, row in enumerate(rows)]
    folder = tmp_path_factory.mktemp("list")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_formats, "_CHUNK", chunk)
        for indent in (None, 1):
            (folder / "d.json").write_text(json.dumps([{"domain": "d"} | row for row in documents], indent=indent))
            found = read(folder / "d.json", domain="d")
            assert [document.text for document in found] == [row["text"] for row in documents]


def test_a_small_parquet_file_that_stands_for_gigabytes_stays_small(tmp_path: Path) -> None:
    one = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), pa.array(["a" * 2**20]))
    pq.write_table(pa.table({"text": one}), tmp_path / "d.parquet", compression="zstd")
    assert (tmp_path / "d.parquet").stat().st_size < 3000
    before = pa.total_allocated_bytes()
    documents = read_path(tmp_path / "d.parquet", CorpusFile(path="d.parquet"), "0")
    held = 0
    for _ in range(2000):
        assert len(next(documents).text) == 2**20
        held = max(held, pa.total_allocated_bytes() - before)
    assert held < 32 * 2**20


def test_batches_of_large_rows_are_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{number:04}" * 2500 for number in range(256)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "d.parquet", use_dictionary=False)
    monkeypatch.setattr(corpus_rows, "BATCH_BYTES", 2**16)
    with pq.ParquetFile(tmp_path / "d.parquet") as file:
        sizes = [batch.num_rows for batch in corpus_rows._batches(file, ["text"])]
    assert max(sizes) <= 32
    assert [document.text for document in read(tmp_path)] == texts

"""Documents read from files: JSON lines, text and Parquet, compressed or not, and folders of these.

Rows are read as they come and no compressed file is unpacked whole, so that memory is bounded by the documents and
not by what a small file claims to hold. The price is a limit on one line, and on one compressed text file.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from fusery.errors import CorpusError
from fusery.formats.shards import CorpusDocument
from fusery.run_config import CorpusFile

MAX_LINE_BYTES = 64 * 2**20
MAX_UNPACKED_TEXT_BYTES = 256 * 2**20
BATCH_ROWS = 1024
_METER_ROWS = 64

_KINDS = "JSON lines (.jsonl), Parquet (.parquet) or text, JSON lines and text also as .gz or .zst, or a folder of them"
_JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_NO_DOMAIN = "all"


@dataclass(slots=True)
class Meter:
    """How far an entry has been read: `amount` of `total`, bytes of its files as they lie on disk, or rows."""

    amount: int = 0
    total: int = 0
    unit: str = "bytes"


def files_of(path: Path) -> list[Path]:
    """The file itself, or all files of a folder and below in the order of their paths.

    Raises:
        CorpusError: there is nothing of that name.
    """
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    if path.is_file():
        return [path]
    raise CorpusError(f"{path}: no such file; expected {_KINDS}")


def read_path(path: Path, file: CorpusFile, label: str, meter: Meter | None = None) -> Iterator[CorpusDocument]:
    """The documents of a file or a folder, as they come. `label` begins their ids; `meter` follows the reading.

    Raises:
        CorpusError: missing, unreadable, or without the column; names file and line or row.
    """
    meter, files = meter or Meter(), files_of(path)
    sizes = [inner.stat().st_size for inner in files]
    meter.total = sum(sizes)
    done = 0
    for inner, size in zip(files, sizes, strict=True):
        yield from _read_file(inner, file, label if inner == path else f"{label}/{inner.relative_to(path)}", meter)
        done += size
        meter.amount = done


def _read_file(path: Path, file: CorpusFile, label: str, meter: Meter) -> Iterator[CorpusDocument]:
    if path.name.endswith(_JSON_LINES):
        yield from _read_json_lines(path, file, label, meter)
    elif path.suffix == ".parquet":
        yield from _read_parquet(path, file, label, meter)
    else:
        yield CorpusDocument(label, file.domain or _NO_DOMAIN, _text_of(path))


def _text_of(path: Path) -> str:
    packed = path.suffix in (".gz", ".zst")
    with _readable(str(path)), path.open("rb") as raw, _unpacked(path, raw) as stream:
        content = stream.read(MAX_UNPACKED_TEXT_BYTES + 1 if packed else -1)
        if packed and len(content) > MAX_UNPACKED_TEXT_BYTES:
            raise CorpusError(
                f"{path}: unpacks to more than {MAX_UNPACKED_TEXT_BYTES} bytes, the limit of one text file; "
                "write documents as JSON lines instead"
            )
        return content.decode()


@contextmanager
def _readable(place: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise CorpusError(f"{place}: not readable as UTF-8 text: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        remedy = "compress it again without --long" if "too much memory" in str(error) else "is the file whole?"
        raise CorpusError(f"{place}: not readable: {error}; {remedy}") from error


@contextmanager
def _unpacked(path: Path, raw: BinaryIO) -> Iterator[BinaryIO]:
    """The bytes of a file that is open as `raw`, decompressed as they are read."""
    if path.suffix == ".gz":
        with gzip.open(raw) as stream:
            yield cast(BinaryIO, stream)
    elif path.suffix == ".zst":
        # Arrow's decoder reports a stream that is cut off, and refuses windows over 128 MiB.
        with pa.CompressedInputStream(pa.PythonFile(raw), "zstd") as frames:
            yield cast(BinaryIO, io.BufferedReader(frames))
    else:
        yield raw


def _lines(path: Path, meter: Meter) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank."""
    before = meter.amount
    with _readable(str(path)), path.open("rb") as raw, _unpacked(path, raw) as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number % _METER_ROWS == 0:
                meter.amount = before + raw.tell()
            if len(line) > MAX_LINE_BYTES:
                raise CorpusError(
                    f"{path}:{number}: the line has more than {MAX_LINE_BYTES} bytes; expected one document a line: "
                    "is it JSON lines? Split the document"
                )
            with _readable(f"{path}:{number}"):
                text = line.decode()
            if text.strip():
                yield number, text


def _read_json_lines(path: Path, file: CorpusFile, label: str, meter: Meter) -> Iterator[CorpusDocument]:
    for number, line in _lines(path, meter):
        try:
            fields = json.loads(line)
            text = fields[file.text_column]
            text.encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorpusError(
                f"{path}:{number}: expected a JSON object with text in {file.text_column!r}: {error!r}"
            ) from error
        yield CorpusDocument(f"{label}:{number}", _domain(fields, file, f"{path}:{number}"), text)


def _domain(fields: Mapping[str, Any], file: CorpusFile, place: str) -> str:
    if file.domain:
        return file.domain
    if file.domain_column not in fields and file.domain_column_is_chosen:
        raise CorpusError(f"{place}: expected a domain in {file.domain_column!r} (domain_column), got none")
    domain = str(fields.get(file.domain_column, _NO_DOMAIN))
    try:
        domain.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{place}: {file.domain_column!r} is not valid text: {error}") from error
    return domain


def _read_parquet(path: Path, file: CorpusFile, label: str, meter: Meter) -> Iterator[CorpusDocument]:
    before, size = meter.amount, path.stat().st_size
    try:
        # No threads of Arrow's: as in `formats.shards`.
        with pq.ParquetFile(path, pre_buffer=False) as parquet:
            columns, rows = chosen_columns(parquet.schema_arrow, file, str(path)), parquet.metadata.num_rows
            batches = parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False)
            for number, document in enumerate(documents_of(batches, file, str(path), label), start=1):
                meter.amount = before + size * number // rows
                yield document
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{path}: not readable as Parquet: {error}") from error


def chosen_columns(schema: pa.Schema, file: CorpusFile, place: str) -> list[str]:
    """The columns of a table to read: the text, and the domain where it is wanted and there.

    Raises:
        CorpusError: the text column is missing or no text, or a domain column chosen in the YAML is missing.
    """
    if file.text_column not in schema.names:
        raise CorpusError(
            f"{place}: no column {file.text_column!r}; it has {', '.join(schema.names) or 'none'}; set text_column"
        )
    kind = schema.field(file.text_column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise CorpusError(f"{place}: column {file.text_column!r} is {kind}, expected strings; set text_column")
    if file.domain:
        return [file.text_column]
    if file.domain_column in schema.names:
        return list(dict.fromkeys([file.text_column, file.domain_column]))
    if file.domain_column_is_chosen:
        raise CorpusError(
            f"{place}: no column {file.domain_column!r}; it has {', '.join(schema.names)}; set domain_column"
        )
    return [file.text_column]


def documents_of(
    batches: Iterable[pa.RecordBatch | pa.Table], file: CorpusFile, place: str, label: str
) -> Iterator[CorpusDocument]:
    """One document a row, rows counted from 1. A row without a domain is of the domain 'all'.

    Raises:
        CorpusError: a row has no text; names it.
    """
    number = 0
    for batch in batches:
        for row in range(batch.num_rows):
            number += 1
            try:
                fields = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
            except UnicodeDecodeError as error:
                raise CorpusError(f"{place}: row {number}: not readable as UTF-8 text: {error}") from error
            known = {name: value for name, value in fields.items() if value is not None}
            if file.text_column not in known:
                raise CorpusError(f"{place}: row {number}: expected text in {file.text_column!r}, got null")
            domain = _domain(known, file, f"{place}: row {number}")
            yield CorpusDocument(f"{label}:{number}", domain, known[file.text_column])

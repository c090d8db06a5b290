"""Documents in the files of a corpus: JSON, CSV, text and Parquet, packed or not, and folders of these.

Rows are read as they come and no compressed file is unpacked whole, so that memory is bounded by the documents and
not by what a small file claims to hold. The price is a limit on one line, and on one compressed text file. The content
decides how a `.json` is read: it may hold lines, one list of rows, or a single row.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from fusery.config.run import CorpusFile
from fusery.hops.store.shards import CorpusDocument
from fusery.run.corpus.files import (
    BINARY,
    EMPTY,
    NO_ROWS,
    NO_TEXT,
    Kind,
    columns_in,
    documents_in,
    endings,
    kind_of,
    packing,
)
from fusery.run.corpus.rows import Meter, Reading, read_parquet
from fusery.runtime.errors import CorpusError
from fusery.runtime.text.json import NotJson, parse_json

MAX_LINE_BYTES = 64 * 2**20
MAX_UNPACKED_TEXT_BYTES = 256 * 2**20
_MOST_XZ_BYTES = 256 * 2**20
"""What unpacking may need; xz -9 needs 65 MiB, and a hostile file may ask for 4 GiB."""
_METER_ROWS, _HEAD_BYTES, _CHUNK = 64, 128, 1 << 16
_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_POINTERS = (b"version https://git-lfs.github.com/", b"version https://hawser.github.com/", b"/annex/objects/")
_GAP = re.compile(r"[\s,]*")

_Row = tuple[int, int, Mapping[str, Any]]
"""The number in its document's id (of the line, or in the list), the line in which it begins, its fields."""


def read_path(path: Path, file: CorpusFile, label: str, meter: Meter | None = None) -> Iterator[CorpusDocument]:
    """The documents of a file or a folder, as they come. `label` begins their ids; `meter` follows the reading.

    Raises:
        CorpusError: missing, unreadable, or without the column; names file and line or row.
    """
    meter, found = meter or Meter(), documents_in(path, file)
    meter.skipped.update(found.skipped)
    sizes = [inner.stat().st_size for inner in found.files]
    meter.total = sum(sizes)
    given = Path(file.path).parts if path.is_dir() else Path(file.path).parts[:-1]
    done = 0
    for inner, size in zip(found.files, sizes, strict=True):
        below = inner.relative_to(path).parts
        name = os.fsencode("/".join((label, *below))).decode("utf-8", "backslashreplace")
        reading = Reading(file, str(inner), name, meter, columns_in([*given, *below[:-1]]))
        yield from _read_file(inner, reading, is_in_folder=inner != path)
        done += size
        meter.amount = done


def _read_file(path: Path, reading: Reading, is_in_folder: bool) -> Iterator[CorpusDocument]:
    kind = kind_of(path, reading.file)
    with _readable(str(path)), path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head.startswith(_POINTERS):
        raise CorpusError(f"{path}: a pointer of Git LFS or git-annex, not the file; fetch it: git lfs pull")
    if kind is Kind.PARQUET:
        yield from read_parquet(path, reading)
    elif not head:
        reading.meter.skipped[EMPTY] += 1
    elif kind is Kind.TEXT:
        yield from _read_text(path, reading, is_in_folder)
    else:
        rows = _json_rows(path, reading) if kind is Kind.JSON else _csv_rows(path, reading, kind)
        yield from _documents(path, rows, reading, is_in_folder)


def _documents(path: Path, rows: Iterator[_Row], reading: Reading, is_in_folder: bool) -> Iterator[CorpusDocument]:
    key, count, first, has_column = reading.file.text_column, 0, None, False
    for number, line, fields in rows:
        count += 1
        first = first or (line, fields)
        has_column = has_column or key in fields
        document = reading.document(fields, number, f"{path}:{line}")
        if document is not None:
            yield document
    if has_column or first is None:
        return
    if count == 1 and is_in_folder and endings(path)[0] == ".json":
        # A file of settings, as package.json, and no row.
        reading.meter.skipped[NO_ROWS] += 1
        reading.meter.skipped -= Counter({NO_TEXT: 1})
        return
    raise CorpusError(
        f"{path}:{first[0]}: expected a JSON object with text in {key!r}, got the keys {_named(first[1])}, and no "
        "other row has it; set text_column, or format: text"
    )


def _named(keys: Iterable[str]) -> str:
    names = ", ".join(map(repr, list(keys)[:12])) or "none"
    return names if len(names) < 200 else f"{names[:200]}…"


def _read_text(path: Path, reading: Reading, is_in_folder: bool) -> Iterator[CorpusDocument]:
    most = -1 if packing(path) is None else MAX_UNPACKED_TEXT_BYTES
    try:
        with _opened(path) as (stream, _):
            content = stream.read(most if most < 0 else most + 1)
            if 0 <= most < len(content):
                raise CorpusError(
                    f"{path}: unpacks to more than {most} bytes, the limit of one text file; write documents as JSON "
                    "lines instead"
                )
            text = content.decode()
    except CorpusError as error:
        if not is_in_folder or not isinstance(error.__cause__, UnicodeDecodeError):
            raise
        with path.open("rb") as packed:
            if b"\0" not in packed.read(1 << 13):
                raise
        reading.meter.skipped[BINARY] += 1
        return
    if not reading.file.format:
        _check_is_text(path, text, reading.file.text_column)
    if text.strip():
        yield CorpusDocument(reading.label, reading.domain_of_text(), text)
    else:
        reading.meter.skipped[EMPTY] += 1


def _check_is_text(path: Path, text: str, key: str) -> None:
    """Rows under a name that does not say so are no text."""
    first = text.lstrip()[:MAX_LINE_BYTES].partition("\n")[0]
    if first.startswith(("{", "[{")):
        try:
            fields = parse_json(first, lenient=True)
        except NotJson:
            return
        row = fields[0] if isinstance(fields, list) else fields
        if isinstance(row, dict) and key in row:
            raise CorpusError(
                f"{path}: its first line is a row of JSON with {key!r}; set format: json, or format: text"
            )


def _json_rows(path: Path, reading: Reading) -> Iterator[_Row]:
    """Objects a line; else one list of objects, or objects over several lines."""
    has_begun, expected = False, f"expected a JSON object with text in {reading.file.text_column!r}"
    for number, line in _lines(path, reading.meter):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            fields = parse_json(line, lenient=True)
        except NotJson as error:
            if has_begun:
                raise CorpusError(f"{place}: {expected}: {error}") from error
            fields = None
        if not isinstance(fields, dict):
            if has_begun:
                raise CorpusError(f"{place}: {expected}, got {line.strip()[:40]!r}")
            break
        has_begun = True
        yield number, number, fields
    if has_begun:
        return
    with _opened(path) as (stream, _), io.TextIOWrapper(stream, "utf-8", newline="") as text:
        for number, (begin, value) in enumerate(_values(text, path), start=1):
            if not isinstance(value, dict):
                raise CorpusError(f"{path}:{begin}: {expected}, got {json.dumps(value)[:40]}")
            yield number, begin, value


def _lines(path: Path, meter: Meter) -> Iterator[tuple[int, str]]:
    """Number and text of every line, with its end."""
    before = meter.amount
    with _opened(path) as (stream, raw):
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
            yield number, text


def _values(stream: io.TextIOWrapper, path: Path) -> Iterator[tuple[int, Any]]:
    """The values of one list, or behind each other, with the lines in which they begin. Holds the text of one value."""
    decode, expected = json.JSONDecoder().raw_decode, "expected JSON lines, or one list of JSON objects"
    text, at, line, is_list, problem = "", 0, 1, False, "it is cut off"
    while True:
        start = cast(re.Match[str], _GAP.match(text, at)).end()
        line, at = line + text.count("\n", at, start), start
        mark = text[at : at + 1]
        if mark == ("]" if is_list else "["):
            is_list, at = not is_list, at + 1
            continue
        if mark:
            try:
                value, end = decode(text, at)
                yield line, value
                line, at = line + text.count("\n", at, end), end
                continue
            except ValueError as error:
                problem = str(error)
            except RecursionError:
                raise CorpusError(f"{path}:{line}: not JSON: nested too deeply") from None
        more = stream.read(max(_CHUNK, len(text) - at))
        if not more:
            if mark or is_list:
                raise CorpusError(f"{path}:{line}: {expected}: {problem}")
            return
        text, at = text[at:] + more, 0
        if len(text) > 2 * MAX_LINE_BYTES:
            raise CorpusError(f"{path}:{line}: {expected} of at most {MAX_LINE_BYTES} bytes each: {problem}")


def _csv_rows(path: Path, reading: Reading, kind: Kind) -> Iterator[_Row]:
    """The rows under a header. A row has as many fields as it."""
    held = 0

    def lines() -> Iterator[str]:
        # The reader may join many lines to one row.
        nonlocal held
        for number, line in _lines(path, reading.meter):
            held += len(line)
            if held > 2 * MAX_LINE_BYTES:
                raise CorpusError(
                    f"{path}:{number}: the row has more than {MAX_LINE_BYTES} bytes: a quote that is not closed?"
                )
            yield line

    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader(lines(), delimiter="\t" if kind is Kind.TSV else ",", strict=True)
    try:
        header = next(rows, [])
        _check_header(path, header, reading.file)
        for row in rows:
            held = 0
            if len(row) not in (0, len(header)):
                raise CorpusError(f"{path}:{rows.line_num}: {len(row)} fields, the header has {len(header)}")
            if row:
                yield rows.line_num, rows.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise CorpusError(f"{path}:{rows.line_num}: not readable as {kind.upper()}: {error}") from error


def _check_header(path: Path, header: list[str], file: CorpusFile) -> None:
    if header.count(file.text_column) != 1:
        raise CorpusError(
            f"{path}:1: expected a header with one column {file.text_column!r}, got {_named(header)}; set text_column, "
            "name the columns in the first line, or set format: text"
        )
    if header.count(file.domain_column) > 1 and not file.domain:
        raise CorpusError(f"{path}:1: the header has the column {file.domain_column!r} twice")


@contextmanager
def _readable(place: str) -> Iterator[None]:
    """Names the file where it can't be read."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise CorpusError(f"{place}: not readable as UTF-8 text: {error}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        needs_much = "too much memory" in str(error) or "Memory usage limit" in str(error)
        remedy = "compress it again without --long or a large dictionary" if needs_much else "is the file whole?"
        raise CorpusError(f"{place}: not readable: {error}; {remedy}") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The unpacked bytes of a file behind its byte order mark, and the file itself, whose place tells how far."""
    with _readable(str(path)), path.open("rb") as raw, _UNPACKED[packing(path)](raw) as stream:
        buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)
        head = buffered.peek(_HEAD_BYTES)
        # Where plain letters have two bytes each, every second byte is zero.
        zeros = sorted((head[::2].count(0), head[1::2].count(0)))
        is_wide = len(head) >= 8 and zeros[0] == 0 and zeros[1] * 2 >= 0.9 * (len(head) - 1)
        if head.startswith(_OTHER_BOMS) or is_wide:
            raise CorpusError(
                f"{path}: not readable as UTF-8 text: its byte order mark, or every second byte, is of UTF-16 or "
                "UTF-32; write it as UTF-8: iconv --from-code UTF-16 --to-code UTF-8"
            )
        if head.startswith(_BOM):
            buffered.read(len(_BOM))
        yield buffered, raw


class _Xz(io.RawIOBase):
    """The bytes of an xz or lzma file, in bounded memory: `lzma.open` knows no bound."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed, self._decoder = packed, lzma.LZMADecompressor(memlimit=_MOST_XZ_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        content = b""
        while not content:
            given = b""
            if self._decoder.eof:
                # Another stream may follow, and zeros between them.
                given = (self._decoder.unused_data or self._packed.read(_CHUNK)).lstrip(b"\0")
                if not given and not (given := self._packed.read(_CHUNK).lstrip(b"\0")):
                    return 0
                self._decoder = lzma.LZMADecompressor(memlimit=_MOST_XZ_BYTES)
            elif self._decoder.needs_input and not (given := self._packed.read(_CHUNK)):
                raise EOFError("it ends before its stream does")
            content = self._decoder.decompress(given, len(into))
        into[: len(content)] = content
        return len(content)


_UNPACKED: dict[str | None, Callable[[BinaryIO], Any]] = {
    None: lambda raw: raw,
    "gzip": gzip.open,
    "bz2": bz2.open,
    "xz": lambda raw: io.BufferedReader(_Xz(raw)),
    # Arrow's decoder reports a stream that is cut off, and refuses windows over 128 MiB.
    "zstd": lambda raw: io.BufferedReader(cast(Any, pa.CompressedInputStream(pa.PythonFile(raw), "zstd"))),
}
"""By packing: the bytes of an open file, unpacked as they are read."""

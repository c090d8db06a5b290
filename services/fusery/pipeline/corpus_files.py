"""Documents read from files: JSON, CSV, text and Parquet, packed or not, and folders of these.

Rows are read as they come and no compressed file is unpacked whole, so that memory is bounded by the documents and
not by what a small file claims to hold. The price is a limit on one line, and on one compressed text file. What stands
in a file decides less than its name: a `.json` may hold lines, one list of rows, or a row alone.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fusery.errors import CorpusError
from fusery.formats.shards import CorpusDocument
from fusery.json_text import NotJson, parse_json
from fusery.pipeline.corpus_kinds import (
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
from fusery.pipeline.corpus_rows import Meter, Reading, read_parquet
from fusery.pipeline.corpus_streams import HEAD_BYTES, opened, readable
from fusery.run_config import CorpusFile

MAX_LINE_BYTES = 64 * 2**20
MAX_UNPACKED_TEXT_BYTES = 256 * 2**20
_METER_ROWS = 64
_CHUNK = 1 << 16

_POINTERS = (b"version https://git-lfs.github.com/", b"version https://hawser.github.com/", b"/annex/objects/")
_GAP = re.compile(r"[\s,]*")


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
    with readable(str(path)), path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(_POINTERS):
        raise CorpusError(f"{path}: a pointer of Git LFS or git-annex, not the file; fetch it: git lfs pull")
    if not head and kind is not Kind.PARQUET:
        reading.meter.skipped[EMPTY] += 1
    elif kind is Kind.PARQUET:
        yield from read_parquet(path, reading)
    elif kind is Kind.TEXT:
        yield from _read_text(path, reading, is_in_folder)
    else:
        rows = _json_rows(path, reading) if kind is Kind.JSON else _csv_rows(path, reading, kind)
        yield from _documents(path, rows, reading, is_in_folder)


@dataclass(frozen=True, slots=True)
class _Row:
    """`number` of its line, or of itself in a list; `place` in messages."""

    number: int
    place: str
    fields: Mapping[str, Any]


def _documents(path: Path, rows: Iterator[_Row], reading: Reading, is_in_folder: bool) -> Iterator[CorpusDocument]:
    key, count, first, has_column = reading.file.text_column, 0, None, False
    for row in rows:
        count += 1
        first = first or row
        has_column = has_column or key in row.fields
        document = reading.document(row.fields, row.number, row.place)
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
        f"{first.place}: expected a JSON object with text in {key!r}, got the keys {_named(first.fields)}, and no "
        "other row has it; set text_column, or format: text"
    )


def _named(fields: Mapping[str, Any]) -> str:
    names = ", ".join(map(repr, list(fields)[:12])) or "none"
    return names if len(names) < 200 else f"{names[:200]}…"


def _read_text(path: Path, reading: Reading, is_in_folder: bool) -> Iterator[CorpusDocument]:
    try:
        text = _text_of(path)
    except CorpusError as error:
        if not (is_in_folder and isinstance(error.__cause__, UnicodeDecodeError) and _has_nul(path)):
            raise
        reading.meter.skipped[BINARY] += 1
        return
    if not reading.file.format:
        _check_is_text(path, text, reading.file.text_column)
    if text.strip():
        yield CorpusDocument(reading.label, reading.domain_of_text(), text)
    else:
        reading.meter.skipped[EMPTY] += 1


def _has_nul(path: Path) -> bool:
    with path.open("rb") as stream:
        return b"\0" in stream.read(1 << 13)


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


def _text_of(path: Path) -> str:
    packed = packing(path) is not None
    with opened(path) as (stream, _):
        content = stream.read(MAX_UNPACKED_TEXT_BYTES + 1 if packed else -1)
        if packed and len(content) > MAX_UNPACKED_TEXT_BYTES:
            raise CorpusError(
                f"{path}: unpacks to more than {MAX_UNPACKED_TEXT_BYTES} bytes, the limit of one text file; "
                "write documents as JSON lines instead"
            )
        return content.decode()


def _lines(path: Path, meter: Meter) -> Iterator[tuple[int, str]]:
    """Number and text of every line, with its end."""
    before = meter.amount
    with opened(path) as (stream, raw):
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
            with readable(f"{path}:{number}"):
                text = line.decode()
            yield number, text


def _json_rows(path: Path, reading: Reading) -> Iterator[_Row]:
    """Objects a line; else one list of objects, or objects over several lines."""
    has_begun, key = False, reading.file.text_column
    for number, line in _lines(path, reading.meter):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            fields = parse_json(line, lenient=True)
        except NotJson as error:
            if has_begun:
                raise CorpusError(f"{place}: expected a JSON object with text in {key!r}: {error}") from error
            fields = None
        if not has_begun and not isinstance(fields, dict):
            yield from _whole_values(path, reading)
            return
        has_begun = True
        if not isinstance(fields, dict):
            raise CorpusError(f"{place}: expected a JSON object with text in {key!r}, got {line.strip()[:40]!r}")
        yield _Row(number, place, fields)


def _whole_values(path: Path, reading: Reading) -> Iterator[_Row]:
    """The objects of one list, or objects behind each other, in whatever lines."""
    with opened(path) as (stream, _), io.TextIOWrapper(stream, "utf-8", newline="") as text:
        number = 0
        for number, (line, value) in enumerate(_values(text, path), start=1):
            place = f"{path}:{line}"
            if not isinstance(value, dict):
                raise CorpusError(
                    f"{place}: expected a JSON object with text in {reading.file.text_column!r}, "
                    f"got {json.dumps(value)[:40]}"
                )
            yield _Row(number, place, value)


def _values(stream: io.TextIOWrapper, path: Path) -> Iterator[tuple[int, Any]]:
    """Values with the lines in which they begin. Text is held up to the end of one value."""
    decode = json.JSONDecoder().raw_decode
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
        if not more and (mark or is_list):
            raise CorpusError(f"{path}:{line}: expected JSON lines, or one list of JSON objects: {problem}")
        if not more:
            return
        text, at = text[at:] + more, 0
        if len(text) > 2 * MAX_LINE_BYTES:
            raise CorpusError(
                f"{path}:{line}: expected JSON lines, or one list of JSON objects of at most {MAX_LINE_BYTES} bytes "
                f"each: {problem}"
            )


def _csv_rows(path: Path, reading: Reading, kind: Kind) -> Iterator[_Row]:
    """The rows under a header. A row has as many fields as it."""
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _Lines(path, _lines(path, reading.meter))
    rows = csv.reader(lines, delimiter="\t" if kind is Kind.TSV else ",", strict=True)
    try:
        header = next(rows, [])
        _check_header(path, header, reading)
        for row in rows:
            lines.held = 0
            if len(row) not in (0, len(header)):
                raise CorpusError(f"{path}:{lines.number}: {len(row)} fields, the header has {len(header)}")
            if row:
                yield _Row(lines.number, f"{path}:{lines.number}", dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise CorpusError(f"{path}:{lines.number}: not readable as {kind.upper()}: {error}") from error


def _check_header(path: Path, header: list[str], reading: Reading) -> None:
    file, shown = reading.file, ", ".join(map(repr, header[:12]))[:200]
    if header.count(file.text_column) != 1:
        raise CorpusError(
            f"{path}:1: expected a header with one column {file.text_column!r}, got {shown}; set text_column, name the "
            "columns in the first line, or set format: text"
        )
    if header.count(file.domain_column) > 1 and not file.domain:
        raise CorpusError(f"{path}:1: the header has the column {file.domain_column!r} twice")


@dataclass(slots=True)
class _Lines:
    """Lines for the CSV reader, which may join many to one row: `held` are the characters since the last one."""

    path: Path
    lines: Iterator[tuple[int, str]]
    number: int = 0
    held: int = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self.lines)
        self.held += len(line)
        if self.held > 2 * MAX_LINE_BYTES:
            raise CorpusError(
                f"{self.path}:{self.number}: the row has more than {MAX_LINE_BYTES} bytes: a quote that is not closed?"
            )
        return line

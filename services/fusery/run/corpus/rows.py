"""Rows as documents: what counts as a text and a domain, in JSON, CSV, Parquet and datasets alike; and Parquet itself.

A row without text is left out and counted, as is usual in training on a table; a table without the column is refused.
No dictionary of a Parquet file is written out, and batches are by bytes, so that a small file stays small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fusery.config.run import CorpusFile
from fusery.hops.store.shards import CorpusDocument
from fusery.run.corpus.files import NO_TEXT
from fusery.runtime.errors import CorpusError

BATCH_ROWS, BATCH_BYTES = 1024, 64 * 2**20
MAX_TEXT_BYTES = 64 * 2**20
NO_DOMAIN = "all"


@dataclass(slots=True)
class Meter:
    """How far an entry has been read: `amount` of `total`, bytes of its files as they lie on disk, or rows.

    `skipped`: what was no document, counted by reason.
    """

    amount: int = 0
    total: int = 0
    unit: str = "bytes"
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Reading:
    """A file or a dataset that is read: its entry, its name in messages, what its ids begin with.

    `columns`: those that folders of its path name (`domain=code`).
    """

    file: CorpusFile
    place: str
    label: str
    meter: Meter
    columns: Mapping[str, str] = field(default_factory=dict)

    def document(self, fields: Mapping[str, Any], id: object, place: str) -> CorpusDocument | None:
        """A row as a document; None: it has no text, and is counted.

        Raises:
            CorpusError: its text or domain is of another kind; `place` names the row.
        """
        key = self.file.text_column
        text = fields.get(key)
        if text is None or text == "":
            self.meter.skipped[NO_TEXT] += 1
            return None
        if not isinstance(text, str):
            raise CorpusError(f"{place}: expected text in {key!r}, got {_kind(text)}; set text_column")
        if len(_encoded(text, key, place)) > MAX_TEXT_BYTES:
            raise CorpusError(f"{place}: the text has more than {MAX_TEXT_BYTES} bytes; split the document")
        if not text.strip():
            self.meter.skipped[NO_TEXT] += 1
            return None
        return CorpusDocument(f"{self.label}:{id}", self.domain(fields, place), text)

    def domain(self, fields: Mapping[str, Any], place: str) -> str:
        """The entry's domain, else the row's, else that of a folder's name, else 'all'.

        Raises:
            CorpusError: it is no short text, number or boolean; or the entry names a column and the row lacks it.
        """
        key = self.file.domain_column
        if self.file.domain:
            return self.file.domain
        value = fields.get(key)
        if isinstance(value, dict | list | bytes):
            raise CorpusError(
                f"{place}: expected a domain (text, a number, true or false) in {key!r}, got {_kind(value)}; "
                "set domain_column, or domain"
            )
        # Null, NaN and blanks are none.
        domain = "" if value is None or value != value else str(value)
        domain = domain.lower() if isinstance(value, bool) else domain
        if domain.strip():
            _encoded(domain, key, place)
            return domain
        if self.file.domain_column_is_chosen and key not in self.columns:
            raise CorpusError(f"{place}: expected a domain in {key!r} (domain_column), got none")
        return self.domain_of_text()

    def domain_of_text(self) -> str:
        """The domain of a file that has no rows: the entry's, else that of a folder's name, else 'all'."""
        return self.file.domain or self.columns.get(self.file.domain_column) or NO_DOMAIN


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "a boolean", bytes: "bytes", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _encoded(text: str, key: str, place: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{place}: {key!r} is not valid text: {error}") from error


def read_parquet(path: Path, reading: Reading) -> Iterator[CorpusDocument]:
    """The rows of a Parquet file as documents.

    Raises:
        CorpusError: not Parquet, or without the column; or as `Reading.document`.
    """
    meter = reading.meter
    before, size = meter.amount, path.stat().st_size
    try:
        with pq.ParquetFile(path, pre_buffer=False) as parquet:
            columns, rows = chosen_columns(parquet.schema_arrow, reading), parquet.metadata.num_rows
        # No threads of Arrow's: as in `hops.store.shards`. One value that stands in a million rows is held once.
        with pq.ParquetFile(path, pre_buffer=False, read_dictionary=columns) as parquet:
            for number, document in documents_of(_batches(parquet, columns), reading):
                meter.amount = before + size * number // rows
                yield document
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{path}: not readable as Parquet: {error}") from error


def _batches(parquet: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for place in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(place)
        chunks = (group.column(number) for number in range(group.num_columns))
        held = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns)
        rows = max(1, BATCH_ROWS * BATCH_BYTES // max(held, BATCH_BYTES))
        yield from parquet.iter_batches(batch_size=rows, row_groups=[place], columns=columns, use_threads=False)


def chosen_columns(schema: pa.Schema, reading: Reading) -> list[str]:
    """The columns of a table to read: the text, and the domain where it is wanted and there.

    Raises:
        CorpusError: the text column is missing or no text, or a domain column chosen in the YAML is missing.
    """
    file, place = reading.file, reading.place
    if file.text_column not in schema.names:
        raise CorpusError(
            f"{place}: no column {file.text_column!r}; it has {', '.join(schema.names) or 'none'}; set text_column"
        )
    types, kind = pa.types, schema.field(file.text_column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not any(is_it(kind) for is_it in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)):
        raise CorpusError(f"{place}: column {file.text_column!r} is {kind}, expected strings; set text_column")
    if file.domain or file.domain_column not in schema.names:
        if not file.domain and file.domain_column_is_chosen and file.domain_column not in reading.columns:
            raise CorpusError(
                f"{place}: no column {file.domain_column!r}; it has {', '.join(schema.names)}; set domain_column"
            )
        return [file.text_column]
    kind = schema.field(file.domain_column).type
    if types.is_nested(kind):
        raise CorpusError(
            f"{place}: column {file.domain_column!r} is {kind}, expected strings, numbers or booleans; "
            "set domain_column, or domain"
        )
    return list(dict.fromkeys([file.text_column, file.domain_column]))


def documents_of(
    batches: Iterable[pa.RecordBatch | pa.Table], reading: Reading
) -> Iterator[tuple[int, CorpusDocument]]:
    """The documents of a table with the numbers of their rows, counted from 1.

    Raises:
        CorpusError: as `Reading.document`; names the row.
    """
    number = 0
    for batch in batches:
        columns = {name: _values(batch.column(name)) for name in batch.schema.names}
        for row in range(batch.num_rows):
            number += 1
            place = f"{reading.place}: row {number}"
            try:
                fields = {name: value_of(row) for name, value_of in columns.items()}
            except UnicodeDecodeError as error:
                raise CorpusError(f"{place}: not readable as UTF-8 text: {error}") from error
            document = reading.document(fields, number, place)
            if document is not None:
                yield number, document


def _values(column: pa.Array | pa.ChunkedArray) -> Callable[[int], Any]:
    """The value at a place of a column; of a dictionary only the values that are asked for become Python's."""
    if not pa.types.is_dictionary(column.type) or isinstance(column, pa.ChunkedArray):
        return lambda row: column[row].as_py()
    words, places = column.dictionary, column.indices.to_pylist()
    return lambda row: None if places[row] is None else words[places[row]].as_py()

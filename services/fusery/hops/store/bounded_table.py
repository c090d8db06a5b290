"""A Parquet file as a table that is no larger in memory than a file of its size may claim.

A few hundred bytes can stand for gigabytes: a value that is stored once and meant a million times, or numbers that are
all alike. Texts are held once, as the dictionary that they are stored as, and what the other columns unpack to is known
before they are read.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from fusery.runtime.errors import Corrupt

MOST_BYTES = 1 << 30
"""What any file may unpack to; larger ones to 64 times their size, for shards shrink to a tenth."""
_MOST_RATIO = 64
_WIDEST_NUMBER = 8


def read_table(content: bytes) -> pa.Table:
    """All rows of `content`; texts are dictionaries, see `texts_of`.

    Raises:
        Corrupt: it claims to be larger than a shard of its size can be.
        pa.ArrowInvalid, OSError: it is no Parquet file.
    """
    source = pa.BufferReader(content)
    # On this thread alone: a process that ends soon after Arrow's threads have read may be aborted by their end
    # (apache/arrow#34314), and workers are one process a core.
    with pq.ParquetFile(source, pre_buffer=False) as parquet:
        texts = [field.name for field in parquet.schema_arrow if pa.types.is_string(field.type)]
        claimed, most = _claimed_bytes(parquet.metadata), most_bytes(content)
    if claimed > most:
        raise Corrupt(f"a shard of {len(content)} bytes that unpacks to {claimed}, at most {most} are read")
    with pq.ParquetFile(source, pre_buffer=False, read_dictionary=texts) as parquet:
        return parquet.read(use_threads=False)


def most_bytes(content: bytes) -> int:
    """What a file may unpack to."""
    return max(MOST_BYTES, _MOST_RATIO * len(content))


def texts_of(table: pa.Table, column: str) -> list[str]:
    """The texts of a column, one a row; equal ones are one object.

    Raises:
        Corrupt: a row has none.
    """
    found = table[column].combine_chunks()
    if found.null_count:
        raise Corrupt(f"a shard with rows without {column}")
    if not pa.types.is_dictionary(found.type):
        return [str(text) for text in found.to_pylist()]
    words = found.dictionary.to_pylist()
    return [words[place] for place in found.indices.to_pylist()]


def _claimed_bytes(metadata: pq.FileMetaData) -> int:
    """What the columns are in memory: numbers at their widest, texts by what is stored, with a place for each row."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(chunk.num_values * _WIDEST_NUMBER + chunk.total_uncompressed_size for chunk in chunks)

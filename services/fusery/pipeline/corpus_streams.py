"""The bytes of a corpus file: unpacked as they are read, without a byte order mark; a failure names the file."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from fusery.errors import CorpusError
from fusery.pipeline.corpus_kinds import packing

HEAD_BYTES = 128
_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_OPEN: dict[str, Callable[[BinaryIO], Any]] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}


def _is_wide(head: bytes) -> bool:
    """Whether plain letters seem to have two bytes each."""
    halves = sorted((head[::2].count(0), head[1::2].count(0)))
    return len(head) >= 8 and halves[0] == 0 and halves[1] * 2 >= 0.9 * (len(head) - 1)


@contextmanager
def readable(place: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise CorpusError(f"{place}: not readable as UTF-8 text: {error}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        remedy = "compress it again without --long" if "too much memory" in str(error) else "is the file whole?"
        raise CorpusError(f"{place}: not readable: {error}; {remedy}") from error


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The unpacked bytes of a file behind its byte order mark, and the file itself, whose place tells how far."""
    with readable(str(path)), path.open("rb") as raw, _unpacked(path, raw) as stream:
        buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, stream))
        head = buffered.peek(HEAD_BYTES)
        if head.startswith(_OTHER_BOMS) or _is_wide(head):
            raise CorpusError(
                f"{path}: not readable as UTF-8 text: its byte order mark, or every second byte, is of UTF-16 or "
                "UTF-32; write it as UTF-8: iconv --from-code UTF-16 --to-code UTF-8"
            )
        if head.startswith(_BOM):
            buffered.read(len(_BOM))
        yield buffered, raw


@contextmanager
def _unpacked(path: Path, raw: BinaryIO) -> Iterator[BinaryIO]:
    """The bytes of a file that is open as `raw`, decompressed as they are read."""
    packed = packing(path)
    if packed == "zstd":
        # Arrow's decoder reports a stream that is cut off, and refuses windows over 128 MiB.
        with pa.CompressedInputStream(pa.PythonFile(raw), "zstd") as frames:
            yield cast(BinaryIO, io.BufferedReader(frames))
    elif packed is not None:
        with _OPEN[packed](raw) as stream:
            yield stream
    else:
        yield raw

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
_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_MOST_XZ_BYTES = 256 * 2**20
"""What unpacking may need; xz -9 needs 65 MiB, and a hostile file may ask for 4 GiB."""


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
        needs_much = "too much memory" in str(error) or "Memory usage limit" in str(error)
        remedy = "compress it again without --long or a large dictionary" if needs_much else "is the file whole?"
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


class _Xz(io.RawIOBase):
    """The bytes of an xz or lzma file, in bounded memory, which `lzma.open` knows no bound for."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed, self._decoder = packed, self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=_MOST_XZ_BYTES)

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
                self._decoder = self._new()
            elif self._decoder.needs_input and not (given := self._packed.read(_CHUNK)):
                raise EOFError("it ends before its stream does")
            content = self._decoder.decompress(given, len(into))
        into[: len(content)] = content
        return len(content)


def _open_xz(packed: BinaryIO) -> io.BufferedReader:
    return io.BufferedReader(_Xz(packed))


_OPEN: dict[str, Callable[[BinaryIO], Any]] = {"gzip": gzip.open, "bz2": bz2.open, "xz": _open_xz}

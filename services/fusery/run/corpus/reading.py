"""A run's documents as a stream: read from the entries of its corpus, given to a side, split, in the files' order.

Everything that decides which documents come and in which order stands in `reading_key`: the same key, the same stream.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from fusery.config.file import RunFile
from fusery.config.run import CorpusFile
from fusery.hops.names import digest
from fusery.hops.store.shards import CorpusDocument
from fusery.run.corpus.files import documents_in, state_of
from fusery.run.corpus.formats import read_path
from fusery.run.corpus.hub import dataset_state, read_dataset
from fusery.run.corpus.rows import Meter
from fusery.runtime.errors import CorpusError

_READING_VERSION = 2
"""Raised when the same files would give other documents."""

_REPORT_EVERY_S = 0.3

Report = Callable[[str, int, int, str], None]
"""Told what is read or written, how much of it, of how much, in which unit."""


def no_report(_title: str, _amount: int, _total: int, _unit: str) -> None:
    """Shows nothing."""


class Side(StrEnum):
    """What a document is for."""

    TRAIN = "train"
    HELD_OUT = "held out"


class Piece(NamedTuple):
    """A document as all models read it. `begins`: it is the first of what stood in the files as one document."""

    side: Side
    begins: bool
    document: CorpusDocument


def reading_key(run: RunFile) -> str:
    """32 hex digits over what is read and how; files are known by path, size and times, datasets by their commit.

    Raises:
        CorpusError, ConfigError: an entry names nothing that is there.
    """
    spec, states = run.config.corpus, []
    for file in (*spec.train, *spec.held_out):
        if file.dataset is not None:
            states.append(dataset_state(run, file))
        else:
            found = documents_in(Path(run.resolve(file.path)), file)
            states.append(digest([state_of(found.files), found.skipped]))
    return digest([_READING_VERSION, spec.model_dump(mode="json"), run.config.seed, states])


def pieces(run: RunFile, report: Report = no_report, skipped: Counter[str] | None = None) -> Iterator[Piece]:
    """All documents of a run after splitting: first the held-out files', then the training files'.

    What is no document is counted in `skipped`, by reason.

    Raises:
        CorpusError: a file is missing or unreadable, or there is no text in it; names file and line or row.
        ConfigError: a dataset's name, config or split is wrong, or the package that reads it is missing.
    """
    spec = run.config.corpus
    sides: tuple[tuple[Side, Sequence[CorpusFile]], ...] = ((Side.HELD_OUT, spec.held_out), (Side.TRAIN, spec.train))
    for side, files in sides:
        for index, file in enumerate(files):
            found, meter = False, Meter()
            for document in _documents(run, file, index, meter, report):
                chosen = _side(document.text, spec.held_out_share, run.config.seed) if side is Side.TRAIN else side
                for number, piece in enumerate(split(document, spec.max_document_bytes)):
                    found = True
                    yield Piece(chosen, number == 0, piece)
            if not found:
                place = file.path if file.dataset else run.resolve(file.path)
                what = f"; skipped: {told(meter.skipped)}" if meter.skipped else ""
                raise CorpusError(
                    f"{place}: no text in it; expected documents with text (column {file.text_column!r}){what}"
                )
            if skipped is not None:
                skipped.update(meter.skipped)


def told(skipped: Mapping[str, int]) -> str:
    """'3 dot files and folders, 2 rows without text'."""
    return ", ".join(f"{count} {reason}" for reason, count in skipped.items())


def _documents(run: RunFile, file: CorpusFile, index: int, meter: Meter, report: Report) -> Iterator[CorpusDocument]:
    """An entry's documents; reports a few times a second, and at the end."""
    path, last = Path(run.resolve(file.path)), time.monotonic()
    if file.dataset is None:
        found = read_path(path, file, f"{index}-{path.name}", meter)
    else:
        found = read_dataset(run, file, index, meter)
    for document in found:
        yield document
        if (now := time.monotonic()) - last > _REPORT_EVERY_S:
            last = now
            report(f"read {path.name}", meter.amount, meter.total, meter.unit)
    report(f"read {path.name}", meter.amount, meter.total, meter.unit)


def _side(text: str, held_out_share: float | None, seed: int) -> Side:
    """By the whole text, so that doubles and the pieces of one document fall on one side, wherever they stand."""
    if held_out_share is None:
        return Side.TRAIN
    key = hashlib.sha256(str(seed).encode()).digest()
    number = hashlib.blake2b(text.encode(), key=key, digest_size=8).digest()
    return Side.HELD_OUT if int.from_bytes(number) < held_out_share * 2**64 else Side.TRAIN


def split(document: CorpusDocument, max_bytes: int) -> Iterator[CorpusDocument]:
    """Pieces of at most `max_bytes` UTF-8 bytes, cut after white space where there is any; blank ones are left out.

    Cut before any tokenizer is asked, so that all models read the same pieces.
    """
    text, start, number = document.text, 0, 0
    end = len(text.rstrip())
    while start < end:
        # A character has a byte at least: more than the window never fits, and the rest need not be looked at.
        piece = text[start : start + max_bytes + 1]
        content = piece.encode()
        if len(content) > max_bytes:
            # Cutting bytes may cut a character; dropping the broken end gives whole ones.
            head = content[:max_bytes].decode(errors="ignore")
            cut = max(head.rfind("\n"), head.rfind(" ")) + 1
            piece = head[:cut] if head[:cut].strip() else head
        if piece.strip():
            name = document.doc_id if len(piece) == len(text) else f"{document.doc_id}#{number}"
            yield CorpusDocument(name, document.domain, piece)
        start, number = start + len(piece), number + 1

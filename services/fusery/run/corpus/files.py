"""Which files of a corpus count, what each is by its name, and whether it is known without reading it again.

The case of an ending does not count, and a packing's own is looked under (`.JSONL.gz`). What downloads, Spark, version
control and desktops leave beside data is no document: it is skipped and counted. A kind that holds documents and can't
be read here is an error, for leaving it out would be another corpus.

A content that was read once counts as unchanged while path, size, mtime and ctime are the same. What is left to chance:
a file system that keeps all of them over a change, or two machines that see different files under one path with equal
size and times. Setting the mtime back, as `cp -p` and `rsync -t` do, changes the ctime and is noticed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fusery.config.run import CorpusFile
from fusery.hops.store.store import Store
from fusery.runtime.errors import CorpusError, Corrupt

EXPECTED = (
    "JSON (.jsonl, .ndjson, .json), .csv, .tsv or text, each also as .gz, .bz2, .xz or .zst, .parquet, "
    "or a folder of them"
)


class Kind(StrEnum):
    """How the documents of a file stand in it."""

    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    TEXT = "text"


PACKED = {
    **dict.fromkeys((".gz", ".gzip"), "gzip"),
    ".bz2": "bz2",
    **dict.fromkeys((".xz", ".lzma"), "xz"),
    **dict.fromkeys((".zst", ".zstd"), "zstd"),
}
"""Endings of packed files, and how they are packed."""
_KINDS = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json", ".jsonlines"), Kind.JSON),
    ".csv": Kind.CSV,
    **dict.fromkeys((".tsv", ".tab"), Kind.TSV),
    **dict.fromkeys((".parquet", ".pq", ".parq"), Kind.PARQUET),
}
_REFUSED = {
    ending: remedy
    for endings, remedy in {
        ".zip .tar .tgz .tbz2 .txz .7z .rar .lz4 .br .z .sz .snappy .lzo": (
            "unpack it first, or pack it as .gz, .bz2, .xz or .zst"
        ),
        ".arrow .feather .avro .orc .xls .xlsx .ods .sqlite .h5 .hdf5 .lance .tfrecord": (
            "write its rows as Parquet or JSON lines (a dataset that `datasets` has saved: path: hf:./FOLDER)"
        ),
        ".pkl .pickle .npy .npz .pt": "write its texts as Parquet or JSON lines",
        ".warc .wet": "extract its texts as JSON lines first",
        ".pdf .docx .epub .odt .rtf": "extract its text first",
    }.items()
    for ending in endings.split()
}
_PART = re.compile(r"-\d{3,}-of-\d{3,}$")
"""What writers of many parts put behind an ending: corpus.jsonl-00001-of-00100."""

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_HUB = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "dataset-metadata.json", "croissant.json"}
_BESIDE_ROWS = re.compile(
    r"(readme|licen[cs]e|copying|notice|citation|authors|changelog|contributing)(\..*)?", re.IGNORECASE
)
_LEFT_BY_TOOLS = {"thumbs.db", "desktop.ini", "icon\r", "sha256sums", "md5sums"}
_FOLDERS_OF_TOOLS = {"__pycache__", "__macosx", "_temporary", "_spark_metadata"}
_DELTA = "_delta_log"
HIDDEN, HUB, TOOLS = "dot files and folders", "files about a dataset", "files that tools leave"
EMPTY, BINARY, NO_ROWS, NO_TEXT = "empty files", "binary files", "JSON files without rows", "rows without text"


@dataclass(slots=True)
class Folder:
    """The files of a corpus in a folder, in the order of their paths, and how many others there are by reason."""

    files: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def kind_of(path: Path, file: CorpusFile) -> Kind:
    """How `path` is read: as its entry says, else by its name.

    Raises:
        CorpusError: a kind that can't be read, with what to do.
    """
    ending, _ = endings(path)
    kind = Kind(file.format) if file.format else _KINDS.get(ending, Kind.TEXT)
    refused = None if file.format else _REFUSED.get(ending)
    if refused:
        raise CorpusError(f"{path}: {ending} files are not read; {refused}")
    if kind is Kind.PARQUET and packing(path):
        raise CorpusError(f"{path}: a packed Parquet file is not read; unpack it, Parquet packs its columns itself")
    return kind


def endings(path: Path) -> tuple[str, str]:
    """The ending that tells the kind and the packing's, both in lower case and empty where there is none."""
    name = _PART.sub("", path.name.lower())
    packed = next((ending for ending in PACKED if name.endswith(ending)), "")
    return Path(name.removesuffix(packed)).suffix, packed


def packing(path: Path) -> str | None:
    """How a file is packed, by its name."""
    return PACKED.get(endings(path)[1])


def documents_in(path: Path, file: CorpusFile) -> Folder:
    """The file itself, or what counts of a folder and below.

    Raises:
        CorpusError: there is nothing of that name, a folder can't be read or is a Delta table, a link leads nowhere.
    """
    if path.is_file():
        return Folder([path])
    found = Folder()
    for inner in all_files(path, found.skipped):
        if reason := _reason(inner):
            found.skipped[reason] += 1
        else:
            found.files.append(inner)
    rows = _folders_with_rows(found.files, file)
    beside = {inner for inner in found.files if _is_beside_rows(inner, rows)}
    found.files = sorted(set(found.files) - beside)
    found.skipped += Counter({HUB: len(beside)})
    return found


def all_files(path: Path, skipped: Counter[str] | None = None) -> Iterator[Path]:
    """Every file of a folder and below that is not hidden; hidden ones and tools' folders are counted, not entered.

    Raises:
        CorpusError: as `documents_in`.
    """
    if not path.is_dir():
        raise CorpusError(f"{path}: no such file; expected {EXPECTED}")
    skipped = Counter() if skipped is None else skipped
    seen: set[str] = set()
    for folder, folders, names in os.walk(path, onerror=_unreadable, followlinks=True):
        if (place := os.path.realpath(folder)) in seen:
            # A link that leads back.
            folders.clear()
            continue
        seen.add(place)
        if _DELTA in folders:
            raise CorpusError(
                f"{folder}: a Delta table, whose files also hold rows that were deleted; write its rows as Parquet"
            )
        hidden = [name for name in (*folders, *names) if name.startswith(".")]
        of_tools = [name for name in folders if name.lower() in _FOLDERS_OF_TOOLS]
        skipped += Counter({HIDDEN: len(hidden), TOOLS: len(of_tools)})
        folders[:] = sorted(set(folders) - set(hidden) - set(of_tools))
        for name in sorted(set(names) - set(hidden)):
            if not Path(folder, name).exists():
                raise CorpusError(f"{Path(folder, name)}: a link to nothing; fetch what it stands for, or remove it")
            yield Path(folder, name)


def _unreadable(error: OSError) -> None:
    raise CorpusError(f"{error.filename}: not readable: {error.strerror}; expected a folder of documents") from error


def _reason(path: Path) -> str | None:
    """Why a file of a folder is no document, as far as its name tells."""
    name = path.name.lower()
    if name in _HUB or (name == "state.json" and (path.parent / "dataset_info.json").exists()):
        return HUB
    is_left = name in _LEFT_BY_TOOLS or name.endswith(".crc") or (name.startswith("_") and not path.suffix)
    return TOOLS if is_left or not path.is_file() else None


def _folders_with_rows(files: Iterable[Path], file: CorpusFile) -> set[Path]:
    """The folders that hold data, and those around them; a `.json` alone may be a program's settings."""
    if file.format == Kind.TEXT.value:
        return set()
    kinds = {(inner.parent, *endings(inner)) for inner in files}
    data = {folder for folder, ending, packed in kinds if ending in _KINDS and (ending != ".json" or packed)}
    of_downloads = (".gitattributes", ".cache", *_HUB)
    for folder in {folder for folder, ending, _ in kinds if ending == ".json"}:
        if any((folder / name).exists() for name in of_downloads):
            data.add(folder)
    return {around for folder in data for around in (folder, *folder.parents)}


def _is_beside_rows(path: Path, folders_with_rows: set[Path]) -> bool:
    """Whether a file is about the data beside it: a licence, a card (also one alone, by its YAML header)."""
    if not _BESIDE_ROWS.fullmatch(path.name) or endings(path)[0] in _KINDS:
        return False
    if path.parent in folders_with_rows or path.name.lower() != "readme.md":
        return path.parent in folders_with_rows
    with path.open("rb") as stream:
        return stream.read(8).lstrip(b"\xef\xbb\xbf").startswith(b"---")


def columns_in(folders: Iterable[str]) -> dict[str, str]:
    """The columns that the names of folders hold, as Spark and Hive write them: `domain=code` gives domain: code."""
    pairs = (name.partition("=") for name in folders)
    return {key: unquote(value) for key, equals, value in pairs if equals and value != _HIVE_NULL}


def state_of(paths: Iterable[Path]) -> str:
    """64 hex digits for these files as they are now, by path, size and times; reads none of them."""
    state = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        of_file = (path.absolute(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        state.update("\0".join(map(str, of_file)).encode(errors="surrogateescape") + b"\n")
    return state.hexdigest()


@dataclass(slots=True)
class FileDigests:
    """SHA-256 of files, each read once: `remember` keeps what was found as notes in the work folder."""

    work: Path
    _new: dict[str, dict[str, Any]] = field(default_factory=dict)

    def digest(self, path: Path) -> bytes:
        """The SHA-256 of a file's content, known from before or found now."""
        note = f"digests/{state_of([path])[:32]}.json"
        known = self._new.get(note)
        if known is None and self.work.is_dir():
            # Where a note is damaged, reading the file again is always right.
            with suppress(Corrupt, ValueError):
                known = Store(str(self.work)).read_note(note)
        if known is None:
            with path.open("rb") as stream:
                known = {"path": str(path.absolute()), "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
        self._new[note] = known
        return bytes.fromhex(known["sha256"])

    def remember(self) -> None:
        """Keeps what was found by reading."""
        for note, found in self._new.items():
            Store(str(self.work)).write_note(note, found)
        self._new.clear()

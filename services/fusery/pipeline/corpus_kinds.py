"""What a file of a corpus is, by its name: rows, text, or nothing that can be read; and which files of a folder count.

Endings are looked at in any case, and under a packing's own (`.JSONL.gz`). What downloads, Spark, version control and
desktops leave beside data is no document: it is skipped and counted, never silently. A kind that holds documents and
can't be read here ends the reading, for leaving it out would be another corpus.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote

from fusery.errors import CorpusError
from fusery.run_config import CorpusFile

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
    ".gz": "gzip",
    ".gzip": "gzip",
    ".bz2": "bz2",
    ".xz": "xz",
    ".lzma": "xz",
    ".zst": "zstd",
    ".zstd": "zstd",
}
"""Endings of packed files, and how they are packed."""
_KINDS = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json", ".jsonlines"), Kind.JSON),
    **dict.fromkeys((".csv",), Kind.CSV),
    **dict.fromkeys((".tsv", ".tab"), Kind.TSV),
    **dict.fromkeys((".parquet", ".pq", ".parq"), Kind.PARQUET),
}
_REFUSED = {
    **dict.fromkeys(
        (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar", ".lz4", ".br", ".z", ".sz", ".snappy", ".lzo"),
        "unpack it first, or pack it as .gz, .bz2, .xz or .zst",
    ),
    **dict.fromkeys(
        (
            ".arrow",
            ".feather",
            ".avro",
            ".orc",
            ".xls",
            ".xlsx",
            ".ods",
            ".sqlite",
            ".h5",
            ".hdf5",
            ".lance",
            ".tfrecord",
        ),
        "write its rows as Parquet or JSON lines (a dataset that `datasets` has saved: path: hf:./FOLDER)",
    ),
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".npz", ".pt"), "write its texts as Parquet or JSON lines"),
    **dict.fromkeys((".warc", ".wet"), "extract its texts as JSON lines first"),
    **dict.fromkeys((".pdf", ".docx", ".epub", ".odt", ".rtf"), "extract its text first"),
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
        reason = _reason(inner)
        if reason is None:
            found.files.append(inner)
        else:
            found.skipped[reason] += 1
    rows = _folders_with_rows(found.files, file)
    beside = [inner for inner in found.files if _is_beside_rows(inner, rows)]
    found.files = sorted(set(found.files) - set(beside))
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
        yield from (_there(Path(folder, name)) for name in sorted(set(names) - set(hidden)))


def _unreadable(error: OSError) -> None:
    raise CorpusError(f"{error.filename}: not readable: {error.strerror}; expected a folder of documents") from error


def _there(path: Path) -> Path:
    if not path.exists():
        raise CorpusError(f"{path}: a link to nothing; fetch what it stands for, or remove it")
    return path


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
    data |= {folder for folder, ending, _ in kinds if ending == ".json" and _is_downloaded(folder)}
    return {around for folder in data for around in (folder, *folder.parents)}


def _is_downloaded(folder: Path) -> bool:
    return any((folder / name).exists() for name in (".gitattributes", ".cache", *_HUB))


def _is_beside_rows(path: Path, folders_with_rows: set[Path]) -> bool:
    """Whether a file is about the data beside it: a card, a licence."""
    if not _BESIDE_ROWS.fullmatch(path.name) or endings(path)[0] in _KINDS:
        return False
    return path.parent in folders_with_rows or (path.name.lower() == "readme.md" and _has_header(path))


def _has_header(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(8).lstrip(b"\xef\xbb\xbf").startswith(b"---")


def columns_in(folders: Iterable[str]) -> dict[str, str]:
    """The columns that the names of folders hold, as Spark and Hive write them: `domain=code` gives domain: code."""
    pairs = (name.partition("=") for name in folders)
    return {key: unquote(value) for key, equals, value in pairs if equals and value != _HIVE_NULL}

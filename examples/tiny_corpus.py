"""Three domains of text that every installation has, split by file into parts that share nothing.

Docs are the interpreter's help topics and docstrings, python is its standard library, cpp are torch's headers: no
network, a fresh machine gets them with the packages. The price: the bytes depend on the versions of Python and
torch, so figures compare only within one installation. A file's docstrings go to the same part as its code, or the
python expert would have read the docs it is tested on.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import re
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from pydoc_data.topics import topics

DOMAINS = ("docs", "python", "cpp")
PARTS = ("expert", "fusion", "dev", "held_out")

_PERCENT_OF_FILES = {"expert": 70, "fusion": 8, "dev": 8, "held_out": 14}
_NOT_PROSE_OR_CODE = {"test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "lib2to3"}
# ATen/ops holds 7,000 generated headers of one template.
_NOT_HEADERS = {"ops"}
_MAX_FILE_BYTES = 200_000
_MAX_CHUNKS_OF_A_FILE = 8

# Spellings that a tokenizer reads as a special or byte token, and the marker that stands for a space.
_AMBIGUOUS = re.compile(r"</?s>|<unk>|<\|endoftext\|>|<0x[0-9A-F]{2}>|\u2581|\r|\x00")
_HEADER = re.compile(r"\s*(?:/\*.*?\*/|(?://[^\n]*\n)+|(?:#[^\n]*\n)+)", re.DOTALL)
_LICENCE = re.compile(r"copyright|licen[cs]e|spdx", re.IGNORECASE)
_TORCH_GUARD = re.compile(
    r"#if !defined\(TORCH_STABLE_ONLY\)[^\n]*\n|\n#else\n#error \"This file should not be.*", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Document:
    """A text of one domain; `id` names the file and, for a piece of one, the piece."""

    text: str
    domain: str
    id: str


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much text each part gets, for each domain."""

    expert_bytes: int = 3_000_000
    fusion_chunks: int = 67
    dev_chunks: int = 80
    held_out_chunks: int = 180
    chunk_bytes: int = 330
    max_files: int | None = None

    def chunks(self, part: str) -> int:
        return {"fusion": self.fusion_chunks, "dev": self.dev_chunks, "held_out": self.held_out_chunks}[part]


def make_corpora(sizes: Sizes) -> dict[str, list[Document]]:
    """Every corpus by file name: `expert-<domain>`, `fusion`, `dev`, `held_out`; the same on every call."""
    parts = _by_part(sizes)
    corpora = {f"expert-{d}": list(_within(parts[d, "expert"], sizes.expert_bytes)) for d in DOMAINS}
    seen = {line for documents in corpora.values() for document in documents for line in _long_lines(document.text)}
    for part in PARTS[1:]:
        chosen = [_unseen_chunks(parts[d, part], sizes.chunks(part), sizes.chunk_bytes, seen) for d in DOMAINS]
        corpora[part] = [document for documents in chosen for document in documents]
        seen |= {line for document in corpora[part] for line in _long_lines(document.text)}
    return corpora


def write_jsonl(path: Path, documents: Iterable[Document]) -> None:
    lines = (json.dumps({"text": d.text, "domain": d.domain, "id": d.id}) + "\n" for d in documents)
    path.write_text("".join(lines), encoding="utf-8")


def read_jsonl(path: Path) -> list[Document]:
    return [Document(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _by_part(sizes: Sizes) -> dict[tuple[str, str], list[Document]]:
    """Documents by domain and part, in an order that only their ids decide."""
    parts: dict[tuple[str, str], list[Document]] = defaultdict(list)
    seen: set[str] = set()
    for document in _documents(sizes.max_files):
        if document.text.strip() and document.text not in seen and not _AMBIGUOUS.search(document.text):
            seen.add(document.text)
            parts[document.domain, _part(document.id)].append(document)
    for documents in parts.values():
        documents.sort(key=lambda document: _digest(document.id))
    return parts


def _part(id_: str) -> str:
    at = int(_digest(id_), 16) % 100
    for part, percent in _PERCENT_OF_FILES.items():
        if at < percent:
            return part
        at -= percent
    raise AssertionError("the percentages sum to 100")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _documents(max_files: int | None) -> Iterator[Document]:
    for name in sorted(topics)[:max_files]:
        yield Document(topics[name].strip() + "\n", "docs", f"topic/{name}")
    library = Path(sysconfig.get_path("stdlib"))
    for id_, text in _files(library, {".py"}, _NOT_PROSE_OR_CODE, max_files):
        code, prose = _code_and_prose(text)
        yield Document(code, "python", id_)
        if prose:
            yield Document(prose, "docs", id_)
    headers = Path(str(distribution("torch").locate_file("torch/include")))
    for id_, text in _files(headers, {".h", ".hpp", ".cuh"}, _NOT_HEADERS, max_files):
        yield Document(text, "cpp", id_)


def _files(root: Path, suffixes: set[str], skip: set[str], limit: int | None) -> Iterator[tuple[str, str]]:
    """(path below `root`, text without its licence) of readable files of moderate size."""
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in skip]
        below = Path(folder).relative_to(root)
        names += [(below / name).as_posix() for name in files if Path(name).suffix in suffixes]
    # By digest, so that a limit takes a sample and not one folder.
    for name in sorted(names, key=_digest)[:limit]:
        path = root / name
        if path.stat().st_size > _MAX_FILE_BYTES:
            continue
        try:
            yield name, _without_licence(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue


def _without_licence(text: str) -> str:
    text = _TORCH_GUARD.sub("", text)
    while (header := _HEADER.match(text)) and _LICENCE.search(header.group()):
        text = text[header.end() :]
    return text.strip("\n") + "\n"


def _code_and_prose(source: str) -> tuple[str, str]:
    """A module without its docstrings of more than a line, and these."""
    lines, prose = source.splitlines(keepends=True), []
    for node in _docstrings(source):
        text = str(node.value)
        if len(text) > 80:
            lines[node.lineno - 1 : node.end_lineno] = [""] * (1 + (node.end_lineno or 0) - node.lineno)
            prose += [] if _LICENCE.search(text) else [inspect.cleandoc(text) + "\n"]
    return "".join(lines).lstrip("\n"), "\n".join(prose)


def _docstrings(source: str) -> list[ast.Constant]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except SyntaxError:
        return []
    return list(_found(tree))


def _found(node: ast.AST) -> Iterator[ast.Constant]:
    """Docstrings in the order of the text. Statements only: expressions are most of a tree and have none."""
    body: list[ast.stmt] = getattr(node, "body", [])
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    match body:
        case [ast.Expr(value=ast.Constant(value=str()) as docstring), *_] if isinstance(node, kinds):
            yield docstring
    for statement in body:
        yield from _found(statement)


def _within(documents: list[Document], max_bytes: int) -> Iterator[Document]:
    for document in documents:
        n_bytes = len(document.text.encode())
        if n_bytes <= max_bytes:
            max_bytes -= n_bytes
            yield document


def _unseen_chunks(documents: list[Document], count: int, chunk_bytes: int, seen: set[str]) -> list[Document]:
    """`count` pieces, at most a few of a file, most of whose long lines no earlier part has.

    Raises:
        RuntimeError: if there are not so many; shares that are not equal would go unseen.
    """
    chunks = [chunk for document in documents for chunk in _chunks(document, chunk_bytes)]
    new = {chunk.text: chunk for chunk in chunks if _is_new(chunk.text, seen)}
    if len(new) < count:
        raise RuntimeError(f"want {count} pieces of a part, this installation's text gives {len(new)}: ask for fewer")
    return sorted(new.values(), key=lambda chunk: _digest(chunk.text))[:count]


def _is_new(text: str, seen: set[str]) -> bool:
    lines = _long_lines(text)
    return bool(lines) and 2 * len(lines & seen) < len(lines)


def _long_lines(text: str) -> set[str]:
    """Lines that no two files share by chance."""
    return {line.strip() for line in text.splitlines() if len(line.strip()) >= 30}


def _chunks(document: Document, chunk_bytes: int) -> list[Document]:
    """Pieces of whole lines, of about `chunk_bytes` and at most half as much again; a spread sample of a file."""
    pieces, piece = [], ""
    for line in document.text.splitlines(keepends=True):
        piece += line
        if len(piece.encode()) >= chunk_bytes:
            pieces.append(piece.strip("\n") + "\n")
            piece = ""
    good = [piece for piece in pieces if 2 * len(piece.encode()) <= 3 * chunk_bytes]
    step = max(1, len(good) // _MAX_CHUNKS_OF_A_FILE)
    return [
        Document(text, document.domain, f"{document.id}#{number}")
        for number, text in enumerate(good[::step][:_MAX_CHUNKS_OF_A_FILE])
    ]

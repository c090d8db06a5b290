"""Seven kinds of text for the table of tokenizers, from packages: fetched once, cut into documents.

Decision: one book in five languages (the Debian Administrator's Handbook) gives running prose that says the same in
each, so kinds compare; code is Python's standard library, JSON the ISO code lists. A translation holds paragraphs that
nobody has translated yet: those that the English edition has too are left out.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

TEXTS = Path(__file__).parent / "work" / "texts"
KIND_BYTES = 60_000
DOCUMENT_BYTES = 1_200
"""A document ends with the line that brings it to this size."""

_EDITIONS = {"english": "en-US", "german": "de-DE", "russian": "ru-RU", "chinese": "zh-CN", "arabic": "ar-MA"}
_MODULES = ("argparse.py", "csv.py", "heapq.py", "textwrap.py", "json/encoder.py", "email/header.py", "zipapp.py")
_LISTS = ("iso_3166-1.json", "iso_4217.json", "schema-3166-1.json")
_HANDBOOK, _CODES = "debian-handbook", "iso-codes"
KINDS = ("english", "code", "json", "german", "russian", "chinese", "arabic")


def documents(text: str, min_bytes: int = DOCUMENT_BYTES) -> list[str]:
    """The text in pieces of whole lines, each of at least `min_bytes` but the last; joined they are the text."""
    pieces: list[str] = []
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        size += len(line.encode())
        if size >= min_bytes:
            pieces.append("".join(lines))
            lines, size = [], 0
    return pieces + ["".join(lines)] * bool(lines)


def sample(whole: list[str], max_bytes: int) -> list[str]:
    """Documents from all over the text, evenly, together about `max_bytes`."""
    total = sum(len(document.encode()) for document in whole)
    step = max(1, round(total / max_bytes))
    return whole[::step]


def paragraphs(page: str) -> Iterator[str]:
    """The running text of a page of the handbook, a paragraph a line."""
    for body in re.findall(r'<div class="para">(.*?)</div>', page, re.DOTALL):
        text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", body)).split())
        if len(text.encode()) >= 80:
            yield text


def load(folder: Path = TEXTS) -> dict[str, str]:
    """The text of every kind; fetched if it is not there."""
    if not (folder / "sources.json").exists():
        fetch(folder)
    return {kind: (folder / f"{kind}.txt").read_bytes().decode() for kind in KINDS}


def fetch(folder: Path) -> None:
    """Write `KIND.txt` for every kind, and `sources.json`: where each comes from."""
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as downloads:
        handbook, book_version = _debian_package(_HANDBOOK, Path(downloads))
        codes, codes_version = _debian_package(_CODES, Path(downloads))
        pages = handbook / "usr" / "share" / "doc" / _HANDBOOK / "html"
        texts = dict(_editions(pages))
        lists = codes / "usr" / "share" / _CODES / "json"
        texts["json"] = "".join((lists / name).read_text(encoding="utf-8") for name in _LISTS)
    library = Path(sysconfig.get_path("stdlib"))
    texts["code"] = "".join((library / name).read_text(encoding="utf-8") for name in _MODULES)
    for kind in KINDS:
        (draft / f"{kind}.txt").write_bytes(_shortened(texts[kind], KIND_BYTES).encode())
    sources = dict.fromkeys(_EDITIONS, f"Debian package {_HANDBOOK} {book_version}")
    sources |= {"json": f"Debian package {_CODES} {codes_version}", "code": "Python's standard library"}
    (draft / "sources.json").write_text(json.dumps(sources, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    draft.rename(folder)


def _editions(pages: Path) -> Iterator[tuple[str, str]]:
    english: set[str] = set()
    for kind, edition in _EDITIONS.items():
        found = [text for page in sorted((pages / edition).glob("*.html")) for text in paragraphs(_read(page))]
        # Every paragraph stands on a page of its section and on the chapter's.
        distinct = [text for text in dict.fromkeys(found) if text not in english]
        english = english or set(found)
        yield kind, "".join(f"{text}\n" for text in distinct)


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _shortened(text: str, max_bytes: int) -> str:
    return "".join(sample(documents(text), max_bytes))


def _debian_package(name: str, folder: Path) -> tuple[Path, str]:
    """The package's files, and its version."""
    subprocess.run(["apt-get", "download", "--quiet", name], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    archive = next(folder.glob(f"{name}_*.deb"))
    subprocess.run(["dpkg-deb", "--extract", str(archive), str(folder / name)], check=True)
    return folder / name, archive.name.split("_")[1]


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TEXTS)
    for kind, text in load(parser.parse_args(arguments).out).items():
        print(f"{kind}: {len(text.encode()):,} bytes, {len(documents(text))} documents")


if __name__ == "__main__":
    main()

"""Under which licences a model says it stands: read from its card and licence files, never guessed from its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.models.checkpoint import is_folder
from fusery.runtime.text.shown import shown, shown_short
from fusery.runtime.text.yaml import NotYaml, parse_yaml

_CARD = "README.md"
_LICENCE_FILE = re.compile(r"licen[sc]e|copying|^terms", re.IGNORECASE)
_MOST_OF_A_NAME = 96
_MOST_CHARACTERS = 200_000
_AGREEMENT = r"community licen[sc]e( agreement)?"
# Whole titles, as they stand at the head of each text: "the code is under the MIT License" is no title.
_TITLES = (
    *((rf"(meta )?llama {re.escape(v)} {_AGREEMENT}", f"llama{v}") for v in ("2", "3", "3.1", "3.2", "3.3", "4")),
    (r"gemma terms of use", "gemma"),
    (r"(the )?apache licen[sc]e,? \(?version 2\.0\)?(,? january 2004)?", "apache-2.0"),
    (r"(the )?mit licen[sc]e( \(mit\))?", "mit"),
    (r'(the )?(new |modified |revised )?bsd 3-clause( "new" or "revised")? licen[sc]e', "bsd-3-clause"),
    (r'(the )?(simplified )?bsd 2-clause( "simplified")? licen[sc]e', "bsd-2-clause"),
)
# The first words of texts that often go without a title.
_BEGINNINGS = (
    (r"permission is hereby granted, free of charge", "mit"),
    (r"redistribution\b.*?\bneither the name of .{0,200}? nor the names of its contributors", "bsd-3-clause"),
)
_NOTICE = re.compile(r"copyright\b|\(c\)|©|all rights reserved")


@dataclass(frozen=True, slots=True)
class StatedLicence:
    """All that a model says of its licence, and where that was read.

    `ids`: as on the Hub ("apache-2.0", "gemma"), all of them count; None stands for one that is not known.
    """

    ids: tuple[str | None, ...]
    found_in: str


def stated_licence(model: str, revision: str | None = None) -> StatedLicence:
    """What the folder or Hub repository `model` says of its licence; the Hub's card is asked for, or its cache.

    A folder's licence files count beside its card. One that can't be told counts only where the card states nothing.
    """
    if not is_folder(model):
        return _of_hub(model, revision)
    folder = Path(model).expanduser()
    in_card = licences_in_card(_text(folder / _CARD))
    places: dict[str | None, str] = dict.fromkeys(in_card, _CARD) if any(in_card) else {}
    for path in sorted(folder.glob("*")):
        if path.is_file() and _LICENCE_FILE.search(path.name):
            id = licence_in_text(_text(path))
            if id is not None or not any(in_card):
                places.setdefault(id, shown_short(path.name, _MOST_OF_A_NAME))
    if not any(places):
        return StatedLicence((None,), "no `license` in its README.md, and no LICENSE file that fusery can tell")
    return StatedLicence(tuple(places), ", ".join(dict.fromkeys(places.values())))


def licences_in_card(card: str) -> tuple[str | None, ...]:
    """Every `license` in a card's YAML header, with `license_name` for "other"; in lower case.

    None stands for one without a name. Empty, if there is no header.
    """
    header = re.match(r"\s*---\s*\n(.*?)\n---\s*(\n|$)", card, re.DOTALL)
    if header is None:
        return ()
    try:
        fields = parse_yaml(header[1]).value
    except NotYaml:
        return ()
    if not isinstance(fields, dict):
        return ()
    names = _entries(fields.get("license_name"))
    listed = (names if id in (None, "other") else [id] for id in _entries(fields.get("license")))
    return tuple(dict.fromkeys(id for ids in listed for id in ids))


def licence_in_text(text: str) -> str | None:
    """The licence whose title, or first words, are the head of `text`; None if it is not known."""
    lines = list(_lines(text))
    for head in (" ".join(lines[:count]) for count in (1, 2)):
        for title, id in _TITLES:
            if re.fullmatch(title, head):
                return id
    whole = " ".join(lines)
    return next((id for beginning, id in _BEGINNINGS if re.match(beginning, whole)), None)


def _lines(text: str) -> Iterator[str]:
    """In lower case, without blank ones, marks of headings, and the notices that stand before some titles."""
    begun = False
    for line in text.lower().splitlines():
        plain = " ".join(line.split()).strip(" #*=-_.:")
        begun = begun or (bool(plain) and not _NOTICE.match(plain))
        if begun and plain:
            yield plain


def _entries(value: Any) -> list[str | None]:
    """The texts of a field that holds one or a list of them; None for what is no text."""
    items = value if isinstance(value, list) else [value]
    return [_name(item) if isinstance(item, str) else None for item in items]


def _name(text: str) -> str | None:
    """A licence's name in lower case; None for what is no short line: it goes into messages, cards and commands."""
    name = " ".join(text.split()).lower()
    return name if name and len(name) <= _MOST_OF_A_NAME and shown(name) == name else None


def _text(path: Path) -> str:
    try:
        # Some editors put a byte order mark first.
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            return stream.read(_MOST_CHARACTERS)
    except OSError:
        return ""


def _of_hub(model: str, revision: str | None) -> StatedLicence:
    from huggingface_hub import hf_hub_download

    try:
        card = hf_hub_download(model, _CARD, revision=revision)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return StatedLicence((None,), f"its card can't be had from the Hub ({reason})")
    ids = licences_in_card(_text(Path(card)))
    if not any(ids):
        return StatedLicence((None,), "its card on the Hub states no licence")
    return StatedLicence(ids, "its card on the Hub")

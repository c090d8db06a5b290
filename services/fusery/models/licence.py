"""Under which licence a model says it stands: read from its card or licence file, never guessed from its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fusery.models.checkpoint import is_folder

_CARD = "README.md"
_MOST_CHARACTERS = 200_000
# The title, as it stands at the head of each text; the first that matches counts.
_TITLES = (
    (r"llama 2 community licen[sc]e", "llama2"),
    (r"meta llama 3 community licen[sc]e|^llama 3 community licen[sc]e", "llama3"),
    (r"llama 3\.1 community licen[sc]e", "llama3.1"),
    (r"llama 3\.2 community licen[sc]e", "llama3.2"),
    (r"llama 3\.3 community licen[sc]e", "llama3.3"),
    (r"llama 4 community licen[sc]e", "llama4"),
    (r"gemma terms of use", "gemma"),
    (r"apache licen[sc]e\s+version 2\.0", "apache-2.0"),
    (r"\bmit licen[sc]e\b|^permission is hereby granted, free of charge", "mit"),
    (r"bsd 3-clause|neither the name of .{0,200} nor the names of its contributors", "bsd-3-clause"),
    (r"bsd 2-clause", "bsd-2-clause"),
)
_HEAD_CHARACTERS = 1500


@dataclass(frozen=True, slots=True)
class StatedLicence:
    """A licence's id as on the Hub ("apache-2.0", "gemma"), None if none is stated; and where it was looked for."""

    id: str | None
    found_in: str


def stated_licence(model: str, revision: str | None = None) -> StatedLicence:
    """What the folder or Hub repository `model` says of its licence; the Hub's card is asked for, or its cache."""
    if not is_folder(model):
        return _of_hub(model, revision)
    folder = Path(model).expanduser()
    card = folder / _CARD
    if (id := licence_in_card(_text(card))) is not None:
        return StatedLicence(id, _CARD)
    for path in sorted(folder.glob("*")):
        if path.is_file() and re.match(r"(?i)(licen[sc]e|copying|terms)", path.name):
            id = licence_in_text(_text(path))
            if id is not None:
                return StatedLicence(id, path.name)
    return StatedLicence(None, "no `license` in its README.md, and no LICENSE file that fusery can tell")


def licence_in_card(card: str) -> str | None:
    """The `license` in a card's YAML header, or `license_name` where that is "other"; in lower case."""
    header = re.match(r"\s*---\s*\n(.*?)\n---\s*(\n|$)", card, re.DOTALL)
    if header is None:
        return None
    try:
        fields = yaml.safe_load(header[1])
    except yaml.YAMLError:
        return None
    if not isinstance(fields, dict):
        return None
    given = _first(fields.get("license"))
    return _first(fields.get("license_name")) if given in (None, "other") else given


def licence_in_text(text: str) -> str | None:
    """The licence whose title stands at the head of `text`; None if it is none that we can tell."""
    head = " ".join(text[:_HEAD_CHARACTERS].lower().split())
    whole = " ".join(text.lower().split())
    for pattern, id in _TITLES:
        if re.search(pattern, whole if id == "bsd-3-clause" else head):
            return id
    return None


def _first(value: Any) -> str | None:
    first = value[0] if isinstance(value, list) and value else value
    return first.strip().lower() if isinstance(first, str) and first.strip() else None


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.read(_MOST_CHARACTERS)
    except OSError:
        return ""


def _of_hub(model: str, revision: str | None) -> StatedLicence:
    from huggingface_hub import hf_hub_download

    try:
        card = hf_hub_download(model, _CARD, revision=revision)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return StatedLicence(None, f"its card can't be had from the Hub ({reason})")
    id = licence_in_card(_text(Path(card)))
    return StatedLicence(id, "its card on the Hub" if id else "its card on the Hub states no licence")

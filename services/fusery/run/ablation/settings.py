"""What a case may change in a run: sections and keys that decide evidence or training, laid over the run's YAML."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

Settings = Mapping[str, Any]
"""By key: 'section.key', a whole section (its values are laid over the run's), or 'sources' (some of the names)."""

_SECTIONS = ("capture", "alignment", "fusion", "training")
SOURCES = "sources"
_WHY_NOT = {
    "seed": "it also decides which texts are held out; give seeds of the training under repeat",
    "corpus": "cases are compared on the same texts; make another run for others",
    "target": "cases train the same target; make another run for another one",
    "gate": "it decides nothing that is trained",
    "evaluation": "a table needs held-out bits per byte alone; what else is measured stands under compare",
    "coverage": "it decides nothing that is trained",
    "registry": "no case is registered",
    "services": "places are those of the base run",
    "kubernetes": "places are those of the base run",
}


def check_key(key: str) -> str | None:
    """Why a case can't set `key`; None: it can, as far as its section goes."""
    section, dot, inner = key.partition(".")
    if key == SOURCES or (section in _SECTIONS and ((inner and "." not in inner) or not dot)):
        return None
    if section in _WHY_NOT:
        return f"can't differ between cases: {_WHY_NOT[section]}"
    if section in (*_SECTIONS, SOURCES):
        return f"expected {section if section == SOURCES else f'{section}.KEY'}"
    near = difflib.get_close_matches(section, (*_SECTIONS, SOURCES), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join((*_SECTIONS, SOURCES))} or SECTION.KEY"
    return f"unknown section; {hint}"


def overlapping(keys: Sequence[str]) -> tuple[str, str] | None:
    """A section and a key of it that are both given; None: there is no such pair."""
    return next(((key.partition(".")[0], key) for key in keys if "." in key and key.partition(".")[0] in keys), None)


def apply(content: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The run's YAML `content` with `settings` in it, and without what a case has no use for.

    Raises:
        KeyError: a source that the run does not have.
    """
    changed = copy.deepcopy({key: value for key, value in content.items() if key not in ("gate", "evaluation")})
    for key, value in settings.items():
        section, _, inner = key.partition(".")
        if key == SOURCES:
            changed[SOURCES] = _chosen(changed[SOURCES], value)
        else:
            before = changed.get(section) or {}
            laid = {inner: value} if inner else value
            changed[section] = {**before, **laid} if isinstance(laid, Mapping) else laid
    return changed


def _chosen(sources: list[Any], names: Any) -> Any:
    if not isinstance(names, list) or not names:
        # The schema says what is wrong.
        return names if not isinstance(names, list) else []
    known = {source["name"] for source in sources}
    for name in names:
        if name not in known:
            raise KeyError(name)
    return [source for source in sources if source["name"] in names]

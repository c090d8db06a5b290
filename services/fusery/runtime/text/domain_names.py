"""Names of domains, which may be any text, where something else has rules for names: metrics of MLflow, and tables.

A metric's name is a path of parts. A part is safe (MLflow takes it), distinct (also where a database compares without
case, accents or spaces at the end) and reversible: `:` and two hex digits stand for a byte, as `%` in a URL.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

MEAN = "mean"
_MOST_CHARACTERS = 120
_TAKEN = re.compile(r"^[.\s]|[.\s]\Z|[^\w. -]")
_PLAIN = re.compile(r"[^a-z0-9_. -]|^[. ]|[. ]\Z")
_ESCAPED = re.compile("(?::[0-9A-F]{2})+")
_CUT = ":-"


def mean_label(domains: Iterable[str]) -> str:
    """What the mean over domains is called beside them: "mean", unless one of them is."""
    names, label = {domain.casefold() for domain in domains}, MEAN
    while label in names:
        label += " of domains"
    return label


def metric_parts(names: Iterable[str]) -> dict[str, str]:
    """Of each name its part of a metric's name; `name_of` gives the name back.

    `https://a.b/c` → `https:3A:2F:2Fa.b:2Fc`, `C#` → `C:23`, `mean` → `:6Dean`; of `Code` and `code`, which some
    databases take for one, `:43ode` and `code`. Over 120 characters the end is a digest, and `name_of` needs the names.
    """
    distinct = dict.fromkeys(names)
    alike = Counter(_compared(_part(name, _TAKEN)) for name in distinct)
    return {name: _part(name, _TAKEN if alike[_compared(_part(name, _TAKEN))] == 1 else _PLAIN) for name in distinct}


def name_of(part: str, names: Iterable[str] = ()) -> str:
    """The name whose part of a metric's name is `part`. `names`: among which a cut one is looked for.

    Raises:
        KeyError: `part` is cut, and none of `names` has it.
    """
    if _CUT in part:
        return {_part(name, rule): name for name in names for rule in (_TAKEN, _PLAIN)}[part]
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace(":", "")).decode(), part)


def mlflow_name(name: str) -> str:
    """A name of a metric or parameter made of parts, with what MLflow refuses in one escaped."""
    return re.sub(r"[^\w/. :-]", lambda found: _escape(found[0]), name)[:250].strip("/. ")


def _part(name: str, escaped: re.Pattern[str]) -> str:
    part = escaped.sub(lambda found: _escape(found[0]), name)
    if part.casefold() == MEAN:
        part = _escape(part[0]) + part[1:]
    if len(part) <= _MOST_CHARACTERS:
        return part
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    head = re.sub(":[0-9A-F]?$", "", part[: _MOST_CHARACTERS - len(_CUT) - len(digest)])
    return f"{head}{_CUT}{digest}"


def _compared(part: str) -> str:
    """What a database without case and accents compares."""
    decomposed = unicodedata.normalize("NFKD", part.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def _escape(text: str) -> str:
    return "".join(f":{byte:02X}" for byte in text.encode())

"""Small JSON files that say themselves whether they are whole: entries and notes of the store.

The seal is the SHA-256 of the rest, and a file must be letter for letter what `seal` writes: any other byte is found
out, white space too. 64 letters a file are its price.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fusery.json_text import parse_json

_SEAL = "seal"


def seal(fields: dict[str, Any]) -> bytes:
    """`fields` (JSON values) as readable JSON with a seal.

    Raises:
        ValueError: one of the fields is called "seal".
    """
    if _SEAL in fields:
        raise ValueError(f"{_SEAL!r} is no name of a field here")
    digest = hashlib.sha256(_text(fields)).hexdigest()
    return _text(fields | {_SEAL: digest})


def unseal(content: bytes) -> dict[str, Any]:
    """The fields that `seal` was given.

    Raises:
        ValueError: `content` is not what `seal` writes, to the last byte.
    """
    fields = parse_json(content)
    if not isinstance(fields, dict) or fields.pop(_SEAL, None) is None:
        raise ValueError("it has no seal")
    if seal(fields) != content:
        raise ValueError("its seal does not fit")
    return fields


def _text(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, indent=1, sort_keys=True).encode() + b"\n"

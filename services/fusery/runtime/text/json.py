"""JSON from outside as Python values: the one parser, with one error for all that is wrong with a text.

Python's own parser also ends in a RecursionError, gives half characters that nothing can write again, and integers that
no array holds. As there, of a key that stands twice the last value counts, and NaN and Infinity are numbers: model
configurations hold them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fusery.runtime.errors import FuseryError

MOST_DEPTH = 100
_MOST_DIGITS = 40
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


class NotJson(FuseryError, ValueError):
    """A text that is no JSON, or JSON that nothing here can hold."""


def parse_json(content: str | bytes, lenient: bool = False) -> Any:
    """The value that `content` spells; a byte order mark is no part of it.

    `lenient`: for rows of which only some fields are used; large integers, half characters and deep nesting pass.

    Raises:
        NotJson: no JSON, not UTF-8, over 100 levels deep, half a surrogate pair, or an integer of more than 40 digits.
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        value = (_LENIENT if lenient else _STRICT).decode(text.removeprefix("\ufeff"))
        if not lenient:
            _check_depth(value)
            if _HALF_CHARACTER.search(text):
                json.dumps(value, ensure_ascii=False).encode()
    except NotJson:
        raise
    except RecursionError:
        raise NotJson("nested too deeply") from None
    except UnicodeEncodeError:
        raise NotJson("half of a surrogate pair is no character") from None
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8 text: {error}") from error
    except ValueError as error:
        raise NotJson(str(error)) from error
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in the file `path`.

    Raises:
        NotJson: as `parse_json`, or it is another value; names the file.
        OSError: it can't be read.
    """
    try:
        value = parse_json(path.read_bytes())
    except NotJson as error:
        raise NotJson(f"{path}: not readable as JSON: {error}; it is damaged, have it made again") from error
    if not isinstance(value, dict):
        raise NotJson(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _check_depth(value: Any) -> None:
    """Many a writer of JSON goes deeper by one call for each level."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        containers = [inner for inner in level if type(inner) in (dict, list)]
        if not containers:
            return
        level = [part for one in containers for part in (one.values() if type(one) is dict else one)]
    raise NotJson("nested too deeply")


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise NotJson(f"an integer of {len(digits)} digits")
    return int(digits)


_STRICT, _LENIENT = json.JSONDecoder(parse_int=_integer), json.JSONDecoder()

"""What of a run is published is published without passwords: those of URLs become `***`, and tokens do.

A YAML may name MLflow or a broker with a password in its URL. The run needs it; who reads the model's card does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from fusery.runtime.text.secrets import has_secret, without_secrets, without_secrets_in_comment
from fusery.runtime.text.yaml import NotYaml, parse_yaml

__all__ = ["has_secret", "published_yaml", "without_secrets"]


def published_yaml(text: str) -> str:
    """The YAML `text` as anybody may read it; comments and layout are kept where they can be.

    Raises:
        NotYaml: it is no YAML.
    """
    parsed = parse_yaml(text)
    redacted = _redacted(parsed.value)
    shown = "".join(_parts(text, parsed.root))
    try:
        is_right = parse_yaml(shown).value == redacted
    except NotYaml:
        is_right = False
    # Anchors, tags and blocks of text are written anew.
    return shown if is_right else yaml.safe_dump(redacted, sort_keys=False, allow_unicode=True)


def _parts(text: str, root: yaml.Node | None) -> Iterator[str]:
    """Scalars, which are replaced as a whole, and what stands between them: comments, marks, white space."""
    at = 0
    for start, end, value in sorted(_scalars(root)):
        yield without_secrets_in_comment(text[at:start])
        shown = without_secrets(value)
        yield text[start:end] if shown == value else _spelled(shown, text[start])
        at = end
    yield without_secrets_in_comment(text[at:])


def _spelled(value: str, mark: str) -> str:
    """`value` as a scalar of YAML: plain or in single quotes where what it replaces was, else in double ones."""
    plain = "'" + value.replace("'", "''") + "'" if mark == "'" else value
    try:
        if mark != '"' and parse_yaml(f"[{plain}]").value == [value]:
            return plain
    except NotYaml:
        pass
    return json.dumps(value, ensure_ascii=False)


def _scalars(node: yaml.Node | None) -> set[tuple[int, int, str]]:
    if isinstance(node, yaml.ScalarNode):
        return {(node.start_mark.index, node.end_mark.index, node.value)}
    parts = [] if node is None else [n for part in node.value for n in (part if isinstance(part, tuple) else (part,))]
    return set().union(*map(_scalars, parts))


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {_redacted(key): _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_redacted(inner) for inner in value]
    return without_secrets(value) if isinstance(value, str) else value

"""What of a run is published is published without passwords: those of URLs become `***`.

A YAML may name MLflow or a broker with a password in its URL. The run needs it; who reads the model's card does not.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from fusery.yaml_text import parse_yaml

_HIDDEN = "***"
_URL = re.compile(r"://\S+")
_USER = re.compile(r"(\w*)://([^/\s]*)@")
"""Scheme of a URL, and what stands in it before its host."""
_IN_QUERY = re.compile(r"([?&][^=&\s]*(?:password|passwd|secret|token|key|signature|sig)=)[^&\s\"']+", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """`text` with `***` for user and password of every URL in it, and for passwords, tokens and keys in its query."""
    shown = _URL.sub(lambda url: _IN_QUERY.sub(rf"\1{_HIDDEN}", url[0]), text)
    return _USER.sub(lambda found: f"{found[1]}://{_HIDDEN}@" if _is_secret(found[1], found[2]) else found[0], shown)


def has_secret(text: str) -> bool:
    """Whether a URL in `text` lets somebody in."""
    return without_secrets(text) != text


def published_yaml(text: str) -> str:
    """The YAML `text` as anybody may read it; comments and layout are kept."""
    shown = without_secrets(text)
    content = parse_yaml(shown).value
    redacted = _redacted(content)
    # Where YAML's own escapes spell a URL, a look at the text alone does not see it.
    return shown if redacted == content else yaml.safe_dump(redacted, sort_keys=False, allow_unicode=True)


def _is_secret(scheme: str, user: str) -> bool:
    """A broker's user without a password lets nobody in; what else stands there may be a token."""
    return scheme.lower() not in ("redis", "rediss") or ":" in user


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_redacted(inner) for inner in value]
    return without_secrets(value) if isinstance(value, str) else value

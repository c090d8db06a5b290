"""Text from outside as people may see it, in a terminal, a log or Markdown: nothing in it can act, or hide.

A document's domain, a run's id, a licence or the words of another server may hold an escape that clears the screen, a
line end that begins a log line of its own, or marks that turn the direction of what stands beside them.
"""

from __future__ import annotations

import re

_ACTS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
"""Control characters, marks of direction, line ends of Unicode, invisible ones, halves of pairs, tags."""
_MARKDOWN = re.compile(r"([\\`*\[\]<>!|~$&]|(?<![^\W_])_|_(?![^\W_])|^[#+=-]|^\d+[.)](?!\S)|(?<=:)/(?=/)|(?<=www)\.)")
"""What may begin a mark; an underscore within a word begins none."""
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def shown(text: str, keeps: str = "") -> str:
    r"""`text` with every character that acts on a terminal, or hides, as its escape (`\x1b`); but those in `keeps`."""
    return _ACTS.sub(lambda found: found[0] if found[0] in keeps else _escape(found[0]), text)


def shown_short(text: str, most: int) -> str:
    """`text` as one line of at most `most` characters, the last of them "…" where something was cut."""
    line = shown(" ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def in_markdown(text: str) -> str:
    """`text` as a few words of Markdown that read as it stands: no link, picture, code, HTML or table begins in it."""
    return _MARKDOWN.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", shown(text))


def in_markdown_code(text: str) -> str:
    """`text` as a span of code: fenced with more backticks than stand in it."""
    line = shown(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _escape(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

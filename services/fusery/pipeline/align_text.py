"""Bytes and token ids as text that a terminal or a page can show without harm: nothing hidden, nothing acted on.

Blanks, line ends, parts of characters and characters without a look of their own (joiners, direction marks, controls)
get a visible form, so that a column is as wide as its text says and a hostile text can't turn the line around.
"""

from __future__ import annotations

import unicodedata

from fusery.core.tokens import ByteTokenizer

_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_JOINED = frozenset({"Mn", "Me"})
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)


def visible(spelled: bytes) -> str:
    """The bytes as text: blanks as ␣ ⏎ ⇥ ␍, bytes of part of a character as ⟨E6⟩, unseen characters as ⟨U+200D⟩."""
    shown: list[str] = []
    rest = spelled
    while rest:
        try:
            text, rest, broken = rest.decode(), b"", b""
        except UnicodeDecodeError as error:
            text, broken, rest = rest[: error.start].decode(), rest[error.start : error.end], rest[error.end :]
        for character in text:
            shown.append(_character(character, bool(shown)))
        shown.extend(f"⟨{byte:02X}⟩" for byte in broken)
    return "".join(shown)


def _character(character: str, has_before: bool) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    category = unicodedata.category(character)
    # A variation selector changes the width of the character before it, in some terminals only.
    alone = category in _JOINED and (not has_before or ord(character) in _VARIATION_SELECTORS)
    return f"⟨U+{ord(character):04X}⟩" if category in _UNSEEN or alone else character


def probability(value: float, digits: int) -> str:
    """'0.250', '<0.001': never 0 for what is only small."""
    shown = f"{value:.{digits}f}"
    return shown if float(shown) or value == 0 else f"<{10.0**-digits:.{digits}f}"


class TokenNames:
    """What to call the tokens of a tokenizer."""

    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self._tokenizer = tokenizer

    def spelled(self, index: int) -> bytes | None:
        """The bytes that a token spells; None for a special token, and for an id past the vocabulary."""
        return self._tokenizer.token_bytes[index] if index < self._tokenizer.size else None

    def shown(self, index: int) -> str:
        """A token as visible text; a special token by its name as ‹s›, an id without a token as ‹32001›."""
        spelled = self.spelled(index)
        if spelled is not None:
            return visible(spelled) or "∅"
        name = self._tokenizer.token_strings[index] if index < self._tokenizer.size else None
        return f"‹{visible((name or '').strip('<>|').encode()) or index}›"

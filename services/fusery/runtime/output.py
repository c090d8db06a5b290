"""What a command writes to its terminal, file or pipe: it can always be written, and text from outside can't act there.

An output that is not UTF-8 gets a plain character for each of our own marks, and an escape for any other that it
lacks; JSON stays JSON. No table breaks off in the middle.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from fusery.runtime.text.shown import shown

if TYPE_CHECKING:
    from rich.console import Console

_ERRORS = "fusery.plain"
_ANY_WIDTH = 10_000
_PLAIN = str.maketrans(
    dict(zip("−–—…␣⏎‹›┊┃│✓", "---~_/<>:||v", strict=True))
    | dict(zip("λτ×±→≤“”’·\u00a0", 'ltx+><""\'. ', strict=True))
    | dict.fromkeys("─━═", "-")
    | dict.fromkeys("┏┓┗┛┡┩└┘┌┐├┤┬┴┼╇╈╋", "+")
    | dict.fromkeys("█▓▒░▁▂▃▄▅▆▇", "#")
)


def set_up_output() -> None:
    """Makes stdout and stderr take any text, whatever their encoding."""
    codecs.register_error(_ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def to_json(content: object, indent: int | None = None) -> str:
    """`content` as JSON that stdout can spell, character by character if its encoding is a Unicode one."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    text = json.dumps(content, indent=indent, ensure_ascii=not encoding.lower().startswith("utf"))
    # A half of a surrogate pair can't be written as it is.
    return text if text.isascii() else "".join(c if not "\ud800" <= c <= "\udfff" else f"\\u{ord(c):04x}" for c in text)


def write_utf8(text: str) -> None:
    """Writes a file's text to stdout as UTF-8, whatever its encoding: a manifest must not change on its way."""
    sys.stdout.flush()
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        sys.stdout.write(text)
    else:
        binary.write(text.encode())
        binary.flush()


def console(*, breaks_lines: bool = True, **options: Any) -> Console:
    """A console of rich's in which text can't act: control characters come out as escapes, those of rich's own stay.

    A reader that has gone is a BrokenPipeError, as for `print`. Without `breaks_lines` a line is as long as it is where
    no terminal shows it: in the log of a pod, in a file.
    """
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        def _render_buffer(self, buffer: Any) -> str:
            return super()._render_buffer(
                part if part.control else Segment(shown(part.text, keeps="\n"), part.style) for part in buffer
            )

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    made = SafeConsole(**options)
    if not breaks_lines and not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _ANY_WIDTH
    return made


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Called by the codec for what the output's encoding lacks."""
    assert isinstance(error, UnicodeEncodeError), "of outputs only"
    found = error.object[error.start : error.end]
    plain = (c.translate(_PLAIN) for c in found)
    return "".join(c if c.isascii() else c.encode("ascii", "backslashreplace").decode() for c in plain), error.end

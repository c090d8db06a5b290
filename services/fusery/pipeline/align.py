"""`fusery align`: how target and sources read a text, and what of the sources' distributions reaches the target."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fusery import output
from fusery.core.rules import Dtype
from fusery.errors import ConfigError, InvalidInput
from fusery.pipeline.align_html import page
from fusery.pipeline.align_json import document
from fusery.pipeline.align_open import Opened, check_context, distributions_of, knock, named, opened, tokens_of
from fusery.pipeline.align_show import show, show_summary
from fusery.pipeline.align_view import Modes, Reading, View, view


@dataclass(frozen=True, slots=True)
class Request:
    """Who reads what, under which rules. `top_k` entries of each distribution are asked for, `modes.top` are shown.

    `tokenizer`: of the models behind tgi:URL and vllm:URL; None: what each server names.
    """

    text: str
    target: str
    sources: tuple[str, ...]
    modes: Modes
    top_k: int = 64
    dtype: Dtype = Dtype.FLOAT32
    tokenizer: str | None = None


def text_of(text: str | None, file: Path | None) -> str:
    """The text of the command line: as it stands there, from standard input for "-", or from `file`, unchanged.

    Raises:
        InvalidInput: none or two are given, or it is empty, unreadable or not UTF-8.
    """
    if (text is None) == (file is None):
        raise InvalidInput(f"got {'no text' if text is None else 'TEXT and --file'}; give TEXT, or - , or --file FILE")
    try:
        if file is not None:
            content = file.read_bytes().decode("utf-8-sig")
        elif text == "-":
            content = sys.stdin.buffer.read().decode()
        else:
            content = str(text)
            content.encode()
    except OSError as error:
        raise InvalidInput(f"--file {file}: {error.strerror}; expected a UTF-8 text file") from error
    except UnicodeError as error:
        raise InvalidInput(f"the text is not UTF-8: {error}; re-encode it, or check the terminal's encoding") from error
    if not content:
        raise InvalidInput("the text is empty; give at least two tokens of text")
    return content


def align(request: Request, as_json: bool, html: Path | None) -> None:
    """Prints the comparison; with `html` writes it there as a page and prints the summary alone.

    Raises:
        InvalidInput: something given is wrong; found out before any weights are read.
        ConfigError: the page can't be written.
    """
    if html is not None and not html.absolute().parent.is_dir():
        raise ConfigError(f"--html {html}: there is no folder {html.absolute().parent}; make it first")
    seen = compare(request)
    if html is not None:
        _write(html, page(seen))
    if as_json:
        print(output.to_json(document(seen), indent=1))
        return
    console = output.console(highlight=False)
    if html is None:
        show(seen, console)
        return
    show_summary(seen, console)
    console.print(f"page: {html}", markup=False, soft_wrap=True)


def compare(request: Request) -> View:
    """The comparison that `request` asks for.

    Raises:
        InvalidInput: as `align`.
    """
    given = [("--target", request.target), *(("--source", source) for source in request.sources)]
    names = [named(option, what, request.tokenizer) for option, what in given]
    for participant in names:
        knock(participant)
    with _waiting("reading tokenizers"):
        target, *sources = [opened(participant, request.dtype) for participant in names]
        texts = [tokens_of(each, request.text) for each in (target, *sources)]
    for source, tokenized in zip(sources, texts[1:], strict=True):
        check_context(source, tokenized)
    readings = []
    for source, name, tokenized in zip(sources, _distinct(sources), texts[1:], strict=True):
        with _waiting(f"asking {name}"):
            top = distributions_of(source, request.text, tokenized, max(request.top_k, request.modes.top))
        readings.append(Reading(name, source.participant.given, source.tokenizer, tokenized, top))
    with _waiting("aligning"):
        shown = Reading(target.name, target.participant.given, target.tokenizer, texts[0])
        return view(request.text, request.modes, shown, readings)


def _distinct(sources: Sequence[Opened]) -> list[str]:
    """Names of the sources; what was given, where two have the same."""
    names = [source.name for source in sources]
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{source.name} ({source.participant.given})" if source.name in twice else source.name for source in sources
    ]


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Says on a terminal what takes its time."""
    console = output.console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {path}: can't be written: {error.strerror}") from error

"""`fusery conformance`: one source tested by itself, or two against each other; a report for people or programs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from fusery.core.rules import Dtype
from fusery.run.open_model import named, opened
from fusery.runtime import output
from fusery.runtime.errors import CorpusError, InvalidInput
from fusery.runtime.text import shown as shown_text
from fusery.runtime.text.json import parse_json
from fusery.source.conformance.checks import TEXTS, Status, readable, self_test, tolerance_of
from fusery.source.conformance.comparison import compare

_COLOURS = {Status.PASSED: "green", Status.UNSURE: "yellow", Status.FAILED: "red"}


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. `sources`: one or two; `tokenizer`, `dtype`: for those that are no source servers."""

    sources: tuple[str, ...]
    texts: Path | None = None
    top_k: int = 20
    tolerance: float | None = None
    tokenizer: str | None = None
    dtype: Dtype = Dtype.FLOAT32


def conformance(request: Request, as_json: bool) -> int:
    """Exit code 0 if no check failed, 1 if one did; prints the report.

    Raises:
        InvalidInput: more than two sources, no text that all of them read, or texts that can't be read.
    """
    if not 1 <= len(request.sources) <= 2:
        raise InvalidInput(f"{len(request.sources)} sources given; expected one, or two to compare")
    texts = TEXTS if request.texts is None else read_texts(request.texts)
    names = ["a", "b"][: len(request.sources)]
    with ExitStack() as open_models:
        found = [named("SOURCE", given, request.tokenizer) for given in request.sources]
        sources = [open_models.enter_context(opened(each, request.dtype)).source() for each in found]
        usable = readable(texts, sources)
        if not usable:
            raise InvalidInput(f"none of {len(texts)} texts is spelled by every tokenizer and fits every context")
        top_k = min([request.top_k, *(min(s.model.vocabulary_size, s.model.limits.max_top_k) for s in sources)])
        tolerance = request.tolerance or tolerance_of(*(s.model.dtype for s in sources))
        checks = {name: self_test(s, usable, top_k) for name, s in zip(names, sources, strict=True)}
        if len(sources) == 2:
            checks["both"] = compare(sources[0], sources[1], usable, top_k, tolerance)
        models = [source.model for source in sources]
    passed = all(check.status is not Status.FAILED for of in checks.values() for check in of)
    report = {
        "passed": passed,
        "sources": {
            name: {
                "given": given,
                "name": model.name,
                "engine": model.architecture,
                "dtype": model.dtype,
                "vocabulary_size": model.vocabulary_size,
                "fingerprint": model.fingerprint,
            }
            for name, given, model in zip(names, request.sources, models, strict=True)
        },
        "top_k": top_k,
        "top_k_asked_for": request.top_k,
        "tolerance": tolerance,
        "texts_left_out": [name for name in texts if name not in usable],
        "checks": {
            name: [{"name": c.name, "status": c.status.value, "detail": c.detail} for c in of]
            for name, of in checks.items()
        },
    }
    if as_json:
        print(output.to_json(report, indent=1))
    else:
        _show(report)
    return 0 if passed else 1


def read_texts(path: Path) -> dict[str, str]:
    """The `text` of every line of a JSON Lines file, by file name and line.

    Raises:
        CorpusError: the file can't be read, a line has no text, or there is none.
    """
    texts = {}
    try:
        for number, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), 1):
            if line.strip():
                texts[f"{path.name}:{number}"] = str(parse_json(line)["text"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f'{path}: {error!r}; expected JSON lines with a "text" each') from error
    texts = {name: text for name, text in texts.items() if text}
    if not texts:
        raise CorpusError(f"{path}: no text in it; leave --texts out for the built-in ones")
    return texts


def _show(report: Mapping[str, Any]) -> None:
    console = output.console()
    for name, source in report["sources"].items():
        shown = f"{name}: {source['given']} ({source['engine']}, {source['dtype']}, {source['vocabulary_size']} logits)"
        console.print(escape(shown), highlight=False, soft_wrap=True)
    for name in report["texts_left_out"]:
        console.print(escape(f"text {name} is left out: a tokenizer does not spell it, or it is too long"))
    table = Table(box=None, pad_edge=False)
    for heading in ("source", "check", "", "what was found"):
        table.add_column(heading)
    for source, checks in report["checks"].items():
        for check in checks:
            colour = _COLOURS[Status(check["status"])]
            status = f"[{colour}]{check['status']}[/{colour}]"
            table.add_row(source, escape(check["name"]), status, escape(shown_text.shown(check["detail"])))
    console.print(table)
    verdict = "conforms" if report["passed"] else "does not conform"
    asked, used = report["top_k_asked_for"], report["top_k"]
    entries = f"{used} entries" if used == asked else f"{used} entries ({asked} were asked for; no more are given)"
    console.print(f"{verdict}: {entries}, tolerance {report['tolerance']:g} nats", highlight=False, soft_wrap=True)

"""The report of a run as one HTML file that needs nothing else: pictures inside, no network.

What stands in it comes from users (names of domains and sources, texts, the YAML), so everything is escaped. The sample
of aligned text is a whole page of its own and sits in a frame, as an escaped attribute. The report's only script makes
a frame as tall as its text.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from fusery.core.rules import FusionRule
from fusery.evaluation.report import Report
from fusery.evaluation.shown_domains import left_out
from fusery.evaluation.tables import (
    Cells,
    bits_per_byte_cells,
    evidence_cells,
    gain_lines,
    is_own,
    remark_lines,
    task_cells,
    task_lines,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A document as target and sources read it: `page` is a whole HTML page."""

    domain: str
    doc_id: str
    page: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the fused model comes from. `lineage` and `settings`: texts by name; `config`: the run's YAML."""

    name: str
    about: str
    lineage: Mapping[str, str]
    settings: Mapping[str, str]
    config: str


_AS_TALL_AS_ITS_TEXT = (
    "const f=this,b=f.contentDocument&amp;&amp;f.contentDocument.body,"
    "fit=()=&gt;{if(b.offsetHeight)f.style.height=b.offsetHeight+2+'px'};"
    "if(b){fit();new ResizeObserver(fit).observe(b)}"
)


def page(report: Report, provenance: Provenance, pictures: Mapping[str, bytes], samples: Sequence[Sample]) -> str:
    """The whole file. `pictures`: PNG by name, those there are."""
    parts = {
        "Bits per byte": _measures(report, pictures),
        "Gains": _gains(report, pictures),
        "Tasks": _tasks(report),
        "Training": _training(pictures),
        "Evidence": _evidence(report, pictures),
        "Aligned text": _samples(report, samples),
        "Provenance": _provenance(provenance),
    }
    shown = {title: "".join(content) for title, content in parts.items()}
    shown = {title: content for title, content in shown.items() if content}
    body = [*_verdict(report), *_warnings(report)]
    body += [f'<h2 id="{_anchor(title)}">{title}</h2>{content}' for title, content in shown.items()]
    heading = f"Fusion run {provenance.name}"
    places = {
        "TITLE": escape(f"{heading}: gate {report.verdict.word}" if report.verdict else heading),
        "HEADING": escape(heading),
        "ABOUT": escape(provenance.about),
        "PARTS": "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in shown),
        "BODY": "\n".join(body),
    }
    template = resources.files("fusery.evaluation").joinpath("html_report.html").read_text(encoding="utf-8")
    # Escaped text holds no "<", so no part can be taken for the place of another.
    for name, content in places.items():
        template = template.replace(f"<!--{name}-->", content)
    return template


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _verdict(report: Report) -> Iterator[str]:
    verdict = report.verdict
    if verdict is None:
        return
    head = "The gate passed: the measures show a gain." if verdict.passed else "The gate failed: no proof of a gain."
    lines = "".join(
        f'<li><span class="{"held" if check.passed else "lost"}">{"✓ held" if check.passed else "✗ not held"}</span>: '
        f"{escape(check.name)} <span class='soft'>({escape(check.reason)})</span></li>"
        for check in sorted(verdict.checks, key=lambda check: check.passed)
    )
    yield f'<div class="box {verdict.word}"><strong>{head}</strong><ul>{lines}</ul></div>'


def _warnings(report: Report) -> Iterator[str]:
    if report.warnings:
        lines = "".join(f"<li>{escape(line)}</li>" for line in report.warnings)
        yield f'<div class="box warning"><strong>Low coverage</strong><ul>{lines}</ul></div>'


def _measures(report: Report, pictures: Mapping[str, bytes]) -> Iterator[str]:
    yield (
        "<p>Bits that a model needs to predict a byte of held-out text: the one measure that compares models whose "
        "tokenizers differ. Lower is better.</p>"
    )
    yield _figure(
        pictures,
        "bits_per_byte",
        "Bars: bits per byte; whiskers: 95 % interval over the held-out documents. Documents differ far more than "
        "models do on one document, so whiskers that overlap say little: which model is better stands under Gains. The "
        f"mean weighs every domain alike.{left_out(report)}",
    )
    yield _table(bits_per_byte_cells(report))
    yield _list(remark_lines(report))


def _tasks(report: Report) -> Iterator[str]:
    for cells in task_cells(report):
        yield f"<p>{escape(cells.title)}.</p>{_table(cells)}{_list(task_lines(report))}"


def _gains(report: Report, pictures: Mapping[str, bytes]) -> Iterator[str]:
    yield (
        "<p>The fused model against every other one, document by document (paired bootstrap). A minus means that fused "
        "needs fewer bits. The intervals speak of the choice of documents, not of the seed of the training.</p>"
    )
    yield _list(gain_lines(report))
    yield _figure(
        pictures,
        "gains",
        "Change of bits per byte from the model of the row to fused, by domain. “may be 0”: the 95 % interval holds 0."
        f"{left_out(report)}",
    )


def _training(pictures: Mapping[str, bytes]) -> Iterator[str]:
    if "training" in pictures:
        yield _figure(
            pictures,
            "training",
            "Losses per labelled position, on training batches. The fusion loss is that of the positions with "
            "evidence; the CLM baseline has none.",
        )


def _evidence(report: Report, pictures: Mapping[str, bytes]) -> Iterator[str]:
    if report.coverage:
        yield (
            "<p>What the sources say about the training text. A position of the target has evidence from a source "
            "where both end a token at the same byte; the kept mass is what of the source's probability reaches the "
            "target's vocabulary there.</p>"
        )
        covered = {domain for of_source in report.coverage.values() for domain in of_source}
        caption = "Of each source and domain. Where there is no evidence, the text alone trains."
        yield _figure(pictures, "coverage", f"{caption}{left_out(report, covered)}")
    if report.wins:
        averaged = report.training.get("fusion.rule", FusionRule.MIN_CE.value) != FusionRule.MIN_CE.value
        how = "the weight that the source got" if averaged else "the positions at which the source predicted best"
        caption = f"Of the evidence that was trained on: {how}, as a share."
        yield _figure(pictures, "wins", f"{caption}{left_out(report, report.wins)}")
    tables = [f"<h3>{escape(cells.title)}</h3>{_table(cells)}" for cells in evidence_cells(report)]
    if tables:
        yield f"<details><summary>The same in numbers</summary>{''.join(tables)}</details>"


def _samples(report: Report, samples: Sequence[Sample]) -> Iterator[str]:
    if not samples:
        return
    domains = len(report.wins or report.domains)
    which = "each domain" if len(samples) >= domains else f"each of {len(samples)} of {domains} domains"
    yield (
        f"<p>Training documents as the target and the sources read them, one of {which}. Green edges are "
        "boundaries that a source shares with the target: there it is evidence. Point at a box to see what the "
        "source expects next.</p>"
    )
    for number, sample in enumerate(samples):
        title = f"{sample.domain}: document {sample.doc_id}"
        content = f'srcdoc="{escape(sample.page)}" loading="lazy" onload="{_AS_TALL_AS_ITS_TEXT}"'
        frame = f'<iframe title="{escape(title)}" {content}></iframe>'
        opened = " open" if number == 0 else ""
        yield f"<details{opened}><summary>{escape(title)}</summary>{frame}</details>"


def _provenance(provenance: Provenance) -> Iterator[str]:
    yield _facts(provenance.lineage)
    yield f"<details><summary>Settings</summary>{_facts(provenance.settings)}</details>"
    yield f"<details><summary>The run's YAML</summary><pre>{escape(provenance.config)}</pre></details>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _figure(pictures: Mapping[str, bytes], name: str, caption: str) -> str:
    if name not in pictures:
        return ""
    source = base64.b64encode(pictures[name]).decode()
    image = f'<img src="data:image/png;base64,{source}" alt="{escape(caption)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(cells: Cells) -> str:
    heads = "".join(
        f"<th{_numeric(place, is_own(text), 'own')}>{escape(text)}</th>" for place, text in enumerate(cells.headings)
    )
    rows = (
        "".join(
            f"<td{_numeric(place, (row, place) in cells.best)}>{escape(text)}</td>" for place, text in enumerate(values)
        )
        for row, values in enumerate(cells.rows)
    )
    marks = (' class="own"' if is_own(values[0]) else "" for values in cells.rows)
    lines = (f"<tr{mark}>{row}</tr>" for mark, row in zip(marks, rows, strict=True))
    return f'<div class="scroll"><table><tr>{heads}</tr>{"".join(lines)}</table></div>'


def _numeric(place: int, is_marked: bool = False, mark: str = "best") -> str:
    return f' class="n{f" {mark}" if is_marked else ""}"' if place else ""


def _facts(values: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in values.items())
    return f'<div class="scroll"><table class="facts">{rows}</table></div>'

"""The page: everything of a report in it, nothing of a user's text taken for mark-up."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.evaluation.report.html import Provenance, Sample, page
from fusery.evaluation.report.report import Check, Report, Verdict
from fusery.evaluation.scores import Scores

PNG = b"\x89PNG"
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


class Elements(HTMLParser):
    """Counts elements and keeps their attributes."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.shown = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.shown += data

    def values(self, key: str) -> list[str]:
        return [value for attributes in self.attributes if (value := attributes.get(key)) is not None]


def report_of(domain: str = "code", source: str = "coder", **changes: Any) -> Report:
    scores = Scores(("a", "b"), (domain, domain), (100.0, 110.0), (100, 100))
    content: dict[str, Any] = {
        "run_id": "tiny-0123456789",
        "target_before": scores,
        "fused": scores,
        "sources": {source: scores},
        "coverage": {source: {domain: {"positions": 0.5, "kept_mass": None}}},
        "wins": {domain: {source: 1.0}},
        "verdict": Verdict((Check("better", True, "why"), Check("no worse", False, "because")), {}),
        "resamples": 20,
    }
    return Report(**(content | changes))


def page_of(report: Report, text: str = "text") -> str:
    provenance = Provenance(text, text, {text: text}, {text: text}, f"name: {text}")
    return page(report, provenance, {"gains": PNG}, [Sample(text, text, f"<p>{text}</p>")])


def test_the_verdict_stands_first_with_what_does_not_hold_at_the_top() -> None:
    shown = Elements(page_of(report_of())).shown
    assert "The gate failed: no proof of a gain." in shown
    assert shown.index("✗ not held: no worse (because)") < shown.index("✓ held: better (why)")


def test_a_report_without_verdict_sources_or_pictures_is_a_page_too() -> None:
    report = report_of(verdict=None, sources={}, coverage={}, wins={})
    content = page(report, Provenance("tiny", "", {}, {}, ""), {}, [])
    elements = Elements(content)
    assert "gate" not in elements.shown
    assert "img" not in elements.names
    assert "iframe" not in elements.names


def test_pictures_stand_in_the_page_with_a_text_in_their_place() -> None:
    elements = Elements(page_of(report_of()))
    (source,) = elements.values("src")
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PNG
    assert elements.values("alt")[0].startswith("Change of bits per byte")


def test_warnings_are_shown() -> None:
    assert "evidence at 3%" in Elements(page_of(report_of(warnings=("evidence at 3%",)))).shown


def test_every_part_has_a_link_that_leads_to_it() -> None:
    elements = Elements(page_of(report_of()))
    links = [href.removeprefix("#") for href in elements.values("href")]
    assert links == elements.values("id")
    assert links == ["bits-per-byte", "gains", "evidence", "aligned-text", "provenance"]


@given(TEXTS, TEXTS)
def test_texts_of_users_are_never_mark_up(text: str, name: str) -> None:
    usual = Elements(page_of(report_of()))
    elements = Elements(page_of(report_of(domain=f"<b>{text}", source=f"</td>{name}"), f"<script>{text}</style>"))
    assert elements.names == usual.names
    assert elements.values("srcdoc") == [f"<p><script>{text}</style></p>"]
    assert f"name: <script>{text}" in elements.shown


def cells_with(content: str, mark: str) -> list[str]:
    return re.findall(rf'<(?:tr|th) class="(?:n )?{mark}">(?:<td>)?([^<]*)<', content)


def test_the_row_of_the_fused_model_is_emphasised_and_its_column_where_domains_are_many() -> None:
    assert cells_with(page_of(report_of()), "own") == ["fused"]
    names = tuple(f"domain {i}" for i in range(9))
    scores = Scores(names, names, (100.0,) * 9, (100,) * 9)
    many = report_of(target_before=scores, fused=scores, sources={"coder": scores}, coverage={}, wins={})
    assert cells_with(page_of(many), "own") == ["fused"]
    lossy = replace(report_of().fused, unspelled_bytes=(1, 1))
    assert cells_with(page_of(report_of(fused=lossy)), "own") == ["fused †"]


def test_a_frame_grows_with_its_text() -> None:
    [grows] = Elements(page_of(report_of())).values("onload")
    assert "f.style.height=b.offsetHeight" in grows


@pytest.mark.parametrize(
    ("domains", "says"), [(["text"], "one of each domain."), (["text", "x", "y"], "one of each of 1 of 3 domains.")]
)
def test_the_samples_say_of_how_many_domains_they_are(domains: list[str], says: str) -> None:
    assert says in Elements(page_of(report_of(wins={domain: {"coder": 1.0} for domain in domains}))).shown

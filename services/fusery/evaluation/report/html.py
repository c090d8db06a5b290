"""The report of a run as one HTML file that needs nothing else: pictures inside, no network.

What stands in it comes from users (names of domains and sources, texts, the YAML), so the template escapes every value.
The sample of aligned text is a whole page of its own and sits in a frame, as an escaped attribute. The report's only
script makes a frame as tall as its text.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from fusery.evaluation.report import tables
from fusery.evaluation.report.plots import left_out
from fusery.evaluation.report.report import Report


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


def page(report: Report, provenance: Provenance, pictures: Mapping[str, bytes], samples: Sequence[Sample]) -> str:
    """The whole file. `pictures`: PNG by name, those there are."""
    from jinja2 import Environment, StrictUndefined

    parts = {
        "Bits per byte": True,
        "Gains": True,
        "Tasks": report.tasks,
        "Training": "training" in pictures,
        "Evidence": report.coverage or report.wins,
        "Aligned text": samples,
        "Provenance": True,
    }
    source = resources.files("fusery.evaluation.report").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # Globals, so that the template's macros see them too.
    environment.globals |= {
        "heading": f"Fusion run {provenance.name}",
        "report": report,
        "provenance": provenance,
        "samples": samples,
        "parts": {title: title.lower().replace(" ", "-") for title, is_there in parts.items() if is_there},
        "pictures": {name: base64.b64encode(picture).decode() for name, picture in pictures.items()},
        "tables": tables,
        "is_own": tables.is_own,
        "left_out": left_out,
        "covered": {domain for of_source in report.coverage.values() for domain in of_source},
    }
    return environment.from_string(source).render()

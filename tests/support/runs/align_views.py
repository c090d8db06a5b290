"""Comparisons for tests: pico tokenizers, and sources whose answers can be computed by hand."""

from __future__ import annotations

from fusery.core.rules import Positions, Vocabulary
from fusery.run.inspect.align.view import Modes, Reading, View, view
from fusery.source.api import Document
from support.models.pico_models import pico_byte_tokenizer
from support.source.fake_source import FakeSource


def modes(positions: str = "boundary", vocabulary: str = "partition", top: int = 3) -> Modes:
    return Modes(Positions(positions), Vocabulary(vocabulary), top)


def reading(kind: str, text: str, skill: float | None = None, k: int = 8) -> Reading:
    """A pico tokenizer's tokens; with `skill`, the distributions of a FakeSource."""
    tokenizer = pico_byte_tokenizer(kind)
    top = None if skill is None else FakeSource(kind, skill).compute([Document("text", text)], k)[0].top
    return Reading(kind, f"models/{kind}", tokenizer, tokenizer.tokenize(text), top)


def seen(text: str, target: str, *sources: str, skill: float | None = 0.5, rules: Modes | None = None) -> View:
    """`text` as a target and sources with these pico tokenizers read it."""
    readings = [reading(kind, text, skill) for kind in sources]
    return view(text, rules or modes(), reading(target, text), readings)

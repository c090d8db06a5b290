"""The plan of a run: every shard of every hop, named before any of them exists.

Artefact names are digests of what decides the bytes, so the plan alone says what is missing: what the store
has not. A capture depends on the source, the corpus and the capture settings only; another target, alignment
or fusion rule finds it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_serializer, field_validator

from fusery.config.section import Section
from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.core.rules import Fallback, Positions, Vocabulary
from fusery.hops.names import capture_name, captures_folder, corpus_shard, digest, tokenizer_name

_ALIGN_VERSION = 4
_FUSE_VERSION = 3
"""Raised when the same inputs would give other bytes."""


class Hop(StrEnum):
    CAPTURE = "capture"
    ALIGN = "align"
    FUSE = "fuse"


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One artefact to make. `source` is the source's name, '' for the hop that joins all of them."""

    hop: Hop
    source: str
    shard: int

    @property
    def key(self) -> str:
        return "-".join(part for part in (self.hop.value, self.source, f"{self.shard:05d}") if part)

    @classmethod
    def from_key(cls, key: str) -> ShardTask:
        """The task that `key` names.

        Raises:
            ValueError: it names none.
        """
        head, _, shard = key.rpartition("-")
        hop, _, source = head.partition("-")
        return cls(Hop(hop), source, int(shard))


class PlannedSource(BaseModel):
    """A source as it was when the run was planned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    vocabulary_size: int
    captured_top_k: int | None = None
    """Entries kept in the capture that is read, where that is one of more entries than are used."""


class Plan(BaseModel):
    """Everything that decides the bytes of a run's shards; stored as runs/<run id>/plan.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    corpus_digest: str
    corpus_shards: int
    target_tokenizer_fingerprint: str
    sources: tuple[PlannedSource, ...]
    capture: CaptureSpec
    alignment: AlignmentSpec
    fusion: FusionSpec

    @field_validator("alignment", "fusion", mode="before")
    @classmethod
    def _as_stored(cls, value: Any, field: ValidationInfo) -> Any:
        kind = AlignmentSpec if field.field_name == "alignment" else FusionSpec
        return kind.from_stored(value) if isinstance(value, dict) else value

    @field_serializer("alignment", "fusion")
    def _to_store(self, section: Section) -> dict[str, Any]:
        return section.stored()

    def source(self, name: str) -> PlannedSource:
        return next(source for source in self.sources if source.name == name)

    def used_top_k(self, source: PlannedSource) -> int:
        """Entries of each captured row that the run uses."""
        return min(self.capture.top_k, source.vocabulary_size)

    def captured_top_k(self, source: PlannedSource) -> int:
        """Entries of each row in the capture that the run reads: at least those used, which alone decide the rest."""
        return source.captured_top_k or self.used_top_k(source)

    def of_source_alone(self, name: str) -> Plan:
        """The plan of the same run with one of its sources; captures and alignment are the run's own."""
        return self._changed(sources=[self.source(name).model_dump()])

    def over_held_out(self, corpus_digest: str, corpus_shards: int) -> Plan:
        """The plan whose documents are the held-out ones.

        Without fallbacks: they put the text itself where a source has no evidence, which a measure must not see. What
        is aligned as `reference` has one, so no ensemble of it is measured.
        """
        alignment = self.alignment
        sources = [source.model_copy(update={"captured_top_k": None}).model_dump() for source in self.sources]
        if self.alignment.positions is not Positions.REFERENCE:
            alignment = alignment.model_copy(update={"fallback": Fallback.NONE})
        return self._changed(
            corpus_digest=corpus_digest, corpus_shards=corpus_shards, sources=sources, alignment=alignment.stored()
        )

    def _changed(self, **fields: object) -> Plan:
        # Not model_copy: it would keep what the plan has worked out from the old fields.
        return Plan.model_validate(self.model_dump(mode="json") | fields)

    @cached_property
    def tasks(self) -> tuple[ShardTask, ...]:
        """All tasks, captures first, in the order of the sources and shards."""
        names = [source.name for source in self.sources]
        by_source = [(hop, name) for hop in (Hop.CAPTURE, Hop.ALIGN) for name in names]
        return tuple(
            ShardTask(hop, name, shard)
            for hop, name in [*by_source, (Hop.FUSE, "")]
            for shard in range(self.corpus_shards)
        )

    def __contains__(self, task: ShardTask) -> bool:
        sources = [""] if task.hop is Hop.FUSE else [source.name for source in self.sources]
        return task.source in sources and 0 <= task.shard < self.corpus_shards

    def needs(self, task: ShardTask) -> tuple[ShardTask, ...]:
        """The tasks whose artefacts `task` reads."""
        if task.hop is Hop.CAPTURE:
            return ()
        if task.hop is Hop.ALIGN:
            return (ShardTask(Hop.CAPTURE, task.source, task.shard),)
        return tuple(ShardTask(Hop.ALIGN, source.name, task.shard) for source in self.sources)

    def artefact(self, task: ShardTask) -> str:
        """The name in the store of what `task` makes."""
        return f"{self.folder(task.hop, task.source)}/shard-{task.shard:05d}.parquet"

    def folder(self, hop: Hop, source: str = "") -> str:
        if hop is Hop.CAPTURE:
            planned = self.source(source)
            return self._capture_folder(planned, self.captured_top_k(planned))
        if hop is Hop.ALIGN:
            return self._aligned_folder(self.source(source))
        parts = [*(self._aligned_folder(s) for s in self.sources), self.fusion.stored(), _FUSE_VERSION]
        return f"fused/{digest(parts)}"

    def corpus_shard(self, shard: int) -> str:
        return corpus_shard(self.corpus_digest, shard)

    def tokenizer(self, fingerprint: str) -> str:
        return tokenizer_name(fingerprint)

    def vocabulary_map(self, source: str) -> str:
        parts = [self.source(source).tokenizer_fingerprint, self.target_tokenizer_fingerprint]
        over_strings = self.alignment.positions is Positions.REFERENCE
        rule = self.alignment.stored()["vocabulary"]
        return f"maps/{digest([*parts, rule, over_strings, _ALIGN_VERSION])}.parquet"

    @property
    def cell_spaces(self) -> tuple[int, ...]:
        """For each source the first source whose cells are the same: one tokenizer, or cells that are target tokens."""
        spaces = [
            "target tokens"
            if self.alignment.vocabulary is not Vocabulary.PARTITION
            else self.vocabulary_map(source.name)
            for source in self.sources
        ]
        return tuple(spaces.index(space) for space in spaces)

    def _capture_folder(self, source: PlannedSource, top_k: int) -> str:
        return f"{captures_folder(source.model_fingerprint, self.corpus_digest)}/{capture_name(self.capture, top_k)}"

    def _aligned_folder(self, source: PlannedSource) -> str:
        rules = self.alignment.stored() | {"quality": self.fusion.cost.value, "keeps_predictions": False}
        # Of the entries used, not of those captured: a larger capture gives the same bytes.
        capture = self._capture_folder(source, self.used_top_k(source))
        parts = [capture, source.tokenizer_fingerprint, self.target_tokenizer_fingerprint, rules]
        return f"aligned/{digest([*parts, _ALIGN_VERSION])}"

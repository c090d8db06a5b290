"""The plan of a run: every shard of every hop, named before any of them exists.

Artefact names are digests of what decides the bytes, so the plan alone says what is missing: what the store
has not. A capture depends on the source, the corpus and the capture settings only; another target, alignment
or fusion rule finds it there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from pydantic import BaseModel, ConfigDict

from fusery.core.rules import Positions, Scope, Vocabulary
from fusery.run_config import AlignmentSpec, CaptureSpec, FusionSpec

_ALIGN_VERSION = 2
_FUSE_VERSION = 2
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


class PlannedSource(BaseModel):
    """A source as it was when the run was planned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    vocabulary_size: int


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

    def source(self, name: str) -> PlannedSource:
        return next(source for source in self.sources if source.name == name)

    @cached_property
    def tasks(self) -> tuple[ShardTask, ...]:
        """All tasks, captures first, in the order of the sources and shards."""
        return tuple(self._tasks())

    def _tasks(self) -> Iterator[ShardTask]:
        shards = range(self.corpus_shards)
        for hop in (Hop.CAPTURE, Hop.ALIGN):
            yield from (ShardTask(hop, source.name, shard) for source in self.sources for shard in shards)
        yield from (ShardTask(Hop.FUSE, "", shard) for shard in shards)

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
            return self._capture_folder(self.source(source))
        if hop is Hop.ALIGN:
            return self._aligned_folder(self.source(source))
        parts = [*(self._aligned_folder(s) for s in self.sources), self.fusion.model_dump(mode="json"), _FUSE_VERSION]
        return f"fused/{digest(parts)}"

    def corpus_shard(self, shard: int) -> str:
        return corpus_shard(self.corpus_digest, shard)

    def tokenizer(self, fingerprint: str) -> str:
        return tokenizer_name(fingerprint)

    def vocabulary_map(self, source: str) -> str:
        parts = [self.source(source).tokenizer_fingerprint, self.target_tokenizer_fingerprint]
        over_strings = self.alignment.positions is Positions.REFERENCE
        return f"maps/{digest([*parts, self.alignment.vocabulary.value, over_strings, _ALIGN_VERSION])}.parquet"

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

    def _capture_folder(self, source: PlannedSource) -> str:
        settings = self.capture
        how = f"k{min(settings.top_k, source.vocabulary_size)}-{settings.log_probs}-b{settings.batch_bytes}"
        return f"captures/{source.model_fingerprint[:16]}/{self.corpus_digest[:16]}/{how}"

    def _aligned_folder(self, source: PlannedSource) -> str:
        rules = self.alignment.model_dump(mode="json") | {
            "quality": self.fusion.quality.value,
            "keeps_predictions": self.fusion.scope is Scope.SPAN,
        }
        parts = [self._capture_folder(source), source.tokenizer_fingerprint, self.target_tokenizer_fingerprint, rules]
        return f"aligned/{digest([*parts, _ALIGN_VERSION])}"


def corpus_shard(corpus_digest: str, shard: int) -> str:
    return f"corpora/{corpus_digest[:16]}/shard-{shard:05d}.parquet"


def tokenizer_name(fingerprint: str) -> str:
    return f"tokenizers/{fingerprint[:32]}.json"


def plan_name(run_id: str) -> str:
    return f"runs/{run_id}/plan.json"


def addresses_name(run_id: str) -> str:
    """The note with the current address of every source; ports may change when a run is taken up again."""
    return f"runs/{run_id}/addresses.json"


def attempts_folder(run_id: str, launch: str) -> str:
    """The notes of failed attempts of one launch of a run."""
    return f"runs/{run_id}/attempts/{launch}"


def started_folder(run_id: str, launch: str) -> str:
    """The notes of attempts under way; one that stays behind is of a process that was killed."""
    return f"{attempts_folder(run_id, launch)}/started"


def digest(content: object) -> str:
    """32 hex digits of the SHA-256 of `content` as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

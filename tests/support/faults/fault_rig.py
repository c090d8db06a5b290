"""The rig of the fault suite: a broker, two sources and two workers, real processes all, and what a run of them reads.

Processes that a fault does not touch are kept from run to run; the store's folder has one name, and is emptied
between runs.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.core.tokens import ByteTokenizer
from fusery.hops.names import corpus_shard, tokenizer_name
from fusery.hops.plan import Plan, PlannedSource
from fusery.hops.store import shards
from fusery.hops.store.shards import CorpusDocument
from fusery.source.client import SourceClient
from support.faults.fault_processes import Broker, Source, Worker, wait_until
from support.faults.fault_source import Orders
from support.models.pico_models import pico_byte_tokenizer
from support.runs.pico_run import documents

SHARDS, DOCUMENTS_PER_SHARD = 12, 5
"""Shards: unless fewer are asked for."""
SOURCES = {"prose": "byte_level", "code": "unigram"}
TARGET = "sentencepiece"


class Rig:
    """All processes. Use as a context manager. `undisturbed`: path → SHA-256 of a run that nothing disturbed."""

    def __init__(self, folder: Path, shards: int = SHARDS) -> None:
        self.folder, self.shards = folder, shards
        self.store_folder = folder / "store"
        self.undisturbed_store = folder / "undisturbed"
        self.inputs = folder / "inputs"
        self.broker = Broker(folder)
        self.undisturbed: dict[str, str] = {}
        self._tokenizers = {kind: pico_byte_tokenizer(kind) for kind in {*SOURCES.values(), TARGET}}
        self._write_inputs()
        self.sources = {name: Source(name, self._tokenizer_file(kind), folder) for name, kind in SOURCES.items()}
        self.workers = [self._make_worker(number) for number in range(2)]
        self._planned: tuple[PlannedSource, ...] = ()

    def __enter__(self) -> Rig:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for process in (*self.workers, *self.sources.values(), self.broker):
            process.kill()

    def plan(self, run_id: str) -> Plan:
        return Plan(
            run_id=run_id,
            corpus_digest="c" * 64,
            corpus_shards=self.shards,
            target_tokenizer_fingerprint=self._tokenizers[TARGET].fingerprint,
            sources=self._planned,
            capture=CaptureSpec(top_k=6, batch_bytes=500),
            alignment=AlignmentSpec(),
            fusion=FusionSpec(),
        )

    def tidy(self, *, new_workers: bool) -> None:
        """Everything runs and nothing is under way; the store is empty but for what workers may remember."""
        for source in self.sources.values():
            source.order(Orders())
        if not self.broker.is_running:
            self.broker.start_as(persistent=False)
        new_workers = new_workers or not self._is_idle()
        self.broker.client.flushall()
        dead = [source for source in self.sources.values() if not source.is_running]
        stopped = self.workers if new_workers else [worker for worker in self.workers if not worker.is_running]
        for process in (*dead, *stopped):
            process.kill()
        self._empty_store(with_maps=not new_workers)
        for process in (*dead, *stopped):
            process.start()
        for process in (*dead, *stopped):
            process.wait_ready()

    def restart_broker(self, *, persistent: bool) -> None:
        """Another broker at the same port; the workers find it again."""
        self.broker.kill()
        self.broker.start_as(persistent)

    def new_worker(self, number: int, environment: Mapping[str, str]) -> Worker:
        """In the place of a worker that was killed, with more in its environment; not started."""
        worker = self._make_worker(number)
        worker.environment = {**worker.environment, **environment}
        self.workers[number] = worker
        return worker

    def usual_workers(self) -> None:
        """The next start of each worker has the usual environment; those that run are killed."""
        for number, worker in enumerate(self.workers):
            worker.kill()
            self.workers[number] = self._make_worker(number)

    def _start(self) -> None:
        self.store_folder.mkdir()
        self.broker.start_as(persistent=False)
        for process in (*self.sources.values(), *self.workers):
            process.start()
        for process in (*self.sources.values(), *self.workers):
            process.wait_ready()
        self._planned = tuple(self._described(name) for name in SOURCES)

    def _described(self, name: str) -> PlannedSource:
        with SourceClient(self.sources[name].address) as client:
            model = client.model()
        fields: dict[str, Any] = {"captured_top_k": 6} if "captured_top_k" in PlannedSource.model_fields else {}
        return PlannedSource(
            name=name,
            model_fingerprint=model.fingerprint,
            tokenizer_fingerprint=model.tokenizer_fingerprint,
            vocabulary_size=model.vocabulary_size,
            **fields,
        )

    def _is_idle(self) -> bool:
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self.broker.waiting() == 0, 3, "idle workers")
            return True
        return False

    def _empty_store(self, *, with_maps: bool) -> None:
        shutil.rmtree(self.store_folder, ignore_errors=True)
        self.store_folder.mkdir()
        # A worker that runs remembers its maps, and does not publish them a second time.
        if with_maps and self.undisturbed_store.exists():
            shutil.copytree(self.undisturbed_store / "maps", self.store_folder / "maps")

    def _make_worker(self, number: int) -> Worker:
        return Worker(f"worker-{number}", self.broker.url, self.store_folder, self.folder)

    def _write_inputs(self) -> None:
        rows = [*documents(self.shards * DOCUMENTS_PER_SHARD, seed=1)]
        for shard in range(self.shards):
            numbers = range(shard * DOCUMENTS_PER_SHARD, (shard + 1) * DOCUMENTS_PER_SHARD)
            content = [CorpusDocument(f"d{number}", rows[number]["domain"], rows[number]["text"]) for number in numbers]
            self._write_input(corpus_shard("c" * 64, shard), shards.write_corpus(content, {}))
        for tokenizer in self._tokenizers.values():
            self._write_input(tokenizer_name(tokenizer.fingerprint), tokenizer.definition().encode())

    def _write_input(self, name: str, content: bytes) -> None:
        path = self.inputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def _tokenizer_file(self, kind: str) -> Path:
        tokenizer: ByteTokenizer = self._tokenizers[kind]
        return self.inputs / tokenizer_name(tokenizer.fingerprint)

"""What a run does while its sources answer: asks them what they are, plans, has them read, and measures them.

A capture stands under its source's fingerprint, so a source that became another one is asked anew. That is right for
other weights, and a waste for a server that was started with flags that change no answer. The store keeps what every
source was when a run was planned; what changed is told before the sources are asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from fusery.config.sections import CaptureSpec
from fusery.core.tokens import ByteTokenizer
from fusery.hops.names import capture_name, captures_folder, tokenizer_name
from fusery.hops.plan import Hop, Plan, PlannedSource
from fusery.hops.store.store import Store
from fusery.run import local
from fusery.run.board import Board, Line, Shown
from fusery.run.coordinator.execution import HopsJob
from fusery.run.inspect.store import captured_top_k
from fusery.run.open_run import Run, publish_input
from fusery.run.steps import steps
from fusery.runtime.errors import Corrupt, InvalidInput
from fusery.source.api import ModelDescription

_POLL_S = 0.5


def plan_of(run: Run, target: ByteTokenizer, services: local.Services, board: Board) -> Plan:
    """Asks every source what it is, and keeps that and its tokenizer; says where captures of before are not used.

    Raises:
        InvalidInput: a source has fewer entries than the run asks for.
    """
    train, capture = run.corpora.train, run.config.capture
    sources, shown = [], Shown(board)
    for spec in run.config.sources:

        def tell(why: str, name: str = spec.name) -> None:
            # One that the run started itself is started again here.
            services.supervisor.check()
            shown.tell(name, why)

        with services.client(spec.name, tell) as client:
            model, tokenizer = client.model(), client.tokenizer()
        if capture.top_k > model.vocabulary_size:
            raise InvalidInput(f"source {spec.name}: capture.top_k is over its vocabulary of {model.vocabulary_size}")
        publish_tokenizer(run, tokenizer)
        captured = captured_top_k(
            run.store, model.fingerprint, train.digest, train.shards, capture, model.limits.max_top_k
        )
        asked = Asked(spec.name, model, train.digest, capture, min(capture.top_k, model.vocabulary_size))
        if captured is None and (why := why_asked_anew(run.store, asked)) is not None:
            board.say("captures", why, "yellow", source=spec.name)
        remember(run.store, asked)
        planned = PlannedSource(
            name=spec.name,
            model_fingerprint=model.fingerprint,
            tokenizer_fingerprint=tokenizer.fingerprint,
            vocabulary_size=model.vocabulary_size,
            captured_top_k=captured,
        )
        sources.append(planned)
    return plan_with(run, target.fingerprint, sources)


def plan_with(run: Run, target_fingerprint: str, sources: Sequence[PlannedSource]) -> Plan:
    """The plan of a run whose sources are known."""
    train = run.corpora.train
    return Plan(
        run_id=run.run_id,
        corpus_digest=train.digest,
        corpus_shards=train.shards,
        target_tokenizer_fingerprint=target_fingerprint,
        sources=tuple(sources),
        capture=run.config.capture,
        alignment=run.config.alignment,
        fusion=run.config.fusion,
    )


def hops_job(run: Run, plan: Plan, target: ByteTokenizer, services: local.Services, until: Hop) -> HopsJob:
    """The hops up to `until`; inputs that are found damaged are published again."""

    def make_inputs() -> None:
        publish_input(run)
        publish_tokenizer(run, target)
        for source in plan.sources:
            # A source that is away must not hold up what needs none.
            if run.store.find(tokenizer_name(source.tokenizer_fingerprint)) is None:
                with services.client(source.name) as client:
                    publish_tokenizer(run, client.tokenizer())

    return HopsJob(
        run.store,
        plan,
        services.broker_url,
        services.addresses,
        until,
        make_inputs,
        services.supervisor.check,
    )


def publish_tokenizer(run: Run, tokenizer: ByteTokenizer) -> None:
    name = tokenizer_name(tokenizer.fingerprint)
    if run.store.find(name) is None:
        run.store.publish(name, tokenizer.definition().encode(), {"name": tokenizer.name})


def measure_sources(run: Run, plan: Plan, services: local.Services, board: Board) -> None:
    """All sources at the same time: each is a server of its own. One that goes away is waited for, as by workers."""
    marks: dict[str, Line] = {}
    waits: dict[str, str] = {}
    failures: list[Exception] = []

    def measure(name: str) -> None:
        def mark(title: str, done: int, total: int, unit: str) -> None:
            marks[title] = Line(title, done, total, unit)

        try:
            with services.client(name, partial(waits.__setitem__, name)) as client:
                steps.measure_source(run, plan, name, client, mark)
        except Exception as error:  # handed to the main thread
            failures.append(error)

    # Daemons: Ctrl-C does not wait for a request that is under way.
    threads = [threading.Thread(target=measure, args=(source.name,), daemon=True) for source in plan.sources]
    for thread in threads:
        thread.start()
    shown = Shown(board)
    while any(thread.is_alive() for thread in threads):
        services.supervisor.check()
        time.sleep(_POLL_S)
        board.update(*(line for _, line in sorted(marks.items())))
        for name, why in sorted(waits.items()):
            shown.tell(name, why)
    if failures:
        raise failures[0]


_FOLDER = "sources"
_TOLD = ("architecture", "dtype", "vocabulary_size", "tokenizer_fingerprint")


@dataclass(frozen=True, slots=True)
class Asked:
    """A source of a run, by its name there, and what is asked of it about which text."""

    name: str
    model: ModelDescription
    corpus: str
    capture: CaptureSpec
    top_k: int

    @property
    def folder(self) -> str:
        return captures_folder(self.model.fingerprint, self.corpus)


def remember(store: Store, asked: Asked) -> None:
    """Keeps what the source is now."""
    told = {key: getattr(asked.model, key) for key in ("weights_fingerprint", *_TOLD)}
    store.write_note(f"{_FOLDER}/{asked.model.fingerprint[:16]}.json", {"name": asked.name, **told})


def why_asked_anew(store: Store, asked: Asked) -> str | None:
    """Why no capture of the text is used though there is one of a source of this name; None: there is none, or it is.

    E.g. "source big: its captures of this text are not used: it was vllm 0.32.0, now it is vllm 0.33.0; …".
    """
    names = [folder.rpartition("/")[2] for folder in store.folders(asked.folder)]
    wanted = capture_name(asked.capture, asked.top_k)
    if wanted in names:
        return None
    if names:
        return f"source {asked.name}: its captures of this text are not used: they are {', '.join(names)}, not {wanted}"
    return next((_changed(asked, other) for other in _others(store, asked)), None)


def _others(store: Store, asked: Asked) -> Iterator[dict[str, object]]:
    """What other sources of this name were that the text was captured of."""
    for name in store.list_notes(_FOLDER):
        fingerprint = name.rpartition("/")[2].removesuffix(".json")
        if fingerprint == asked.model.fingerprint[:16] or not store.folders(captures_folder(fingerprint, asked.corpus)):
            continue
        try:
            note = store.read_note(name)
        except Corrupt:
            continue
        if note is not None and note.get("name") == asked.name:
            yield note


def _changed(asked: Asked, before: dict[str, object]) -> str:
    now = asked.model
    pairs = [(key, before.get(key), getattr(now, key)) for key in _TOLD]
    changes = [f"{key} was {then}, is {value}" for key, then, value in pairs if then != value]
    told = f"source {asked.name}: its captures of this text are not used, it is another source now: "
    weights = before.get("weights_fingerprint")
    if not now.architecture.startswith(("vllm ", "tgi ")):
        return told + "; ".join(changes or ["its weights changed"])
    same = f"; if it answers as before, state it with same_as: {weights} (docs/engines.md)"
    told += "; ".join(changes or ["its server names another model, path or settings (vLLM: system_fingerprint)"])
    return told + (same if before.get("tokenizer_fingerprint") == now.tokenizer_fingerprint else "")

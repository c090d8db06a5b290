"""The Celery tasks: a thin shell round the hops that reports failures to the store.

A task never fails in Celery's sense: what went wrong is written as a note of the run, where the coordinator
counts attempts and people read reasons. A store that can't be written costs the note and never the worker: the
coordinator finds the task neither started nor done, and publishes it again.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from celery import current_task

from fusery.hops.capture import capture
from fusery.hops.fuse import HOPS
from fusery.hops.launches import Launch, read_launch
from fusery.hops.names import attempts_folder, started_folder
from fusery.hops.plan import Hop, ShardTask
from fusery.hops.started import MAX_ATTEMPTS, Attempt
from fusery.hops.store.store import Entry, Store
from fusery.hops.tables import At
from fusery.hops.worker.app import app_from_environment
from fusery.hops.worker.messages import TASK_NAME, asked
from fusery.runtime import tracing
from fusery.runtime.errors import ConfigError, Corrupt, FuseryError, Overloaded, SourceAway, SourceLost, Unavailable
from fusery.runtime.settings import settings
from fusery.source.call import without_address

log = logging.getLogger(__name__)

_PATIENCE_S = 30.0
"""How long a call that failed is repeated; after that a source is away, and the process goes on to other tasks."""
_KNOCK_S, _KNOCK_AGAIN_S = 5.0, 1.0

app = app_from_environment()


@app.task(name=TASK_NAME[Hop.CAPTURE])  # type: ignore[untyped-decorator]
def capture_shard(*arguments: Any, **named: Any) -> None:
    """Hop 1 for one shard of one source; takes the fields of `messages.Asked`, here and below."""
    _attempt(Hop.CAPTURE, arguments, named)


@app.task(name=TASK_NAME[Hop.ALIGN])  # type: ignore[untyped-decorator]
def align_shard(*arguments: Any, **named: Any) -> None:
    """Hop 2 for one shard of one source."""
    _attempt(Hop.ALIGN, arguments, named)


@app.task(name=TASK_NAME[Hop.FUSE])  # type: ignore[untyped-decorator]
def fuse_shard(*arguments: Any, **named: Any) -> None:
    """Hop 3 for one shard; `source` is ''."""
    _attempt(Hop.FUSE, arguments, named)


def _attempt(hop: Hop, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
    store_url = settings().store
    if store_url is None:
        raise ConfigError("FUSERY_STORE is not set; a worker needs the store of its runs")
    found = asked(hop, arguments, named)
    if found is None:
        return
    message, task = found
    store = Store(store_url)
    try:
        launch = _wanted(store, message.run_id, message.launch, task)
    except (FuseryError, OSError) as error:
        # Nothing can be said in a store that does not answer.
        log.warning("%s of run %s: left, the store does not answer: %s", task.key, message.run_id, error)
        return
    if launch is not None:
        _work(store, launch, task, message.failures > 0 or _is_redelivered())


def _wanted(store: Store, run_id: str, launch_id: str, task: ShardTask) -> Launch | None:
    """The launch of a message that asks for something; None: it is done, or no longer wanted."""
    launch = read_launch(store, run_id, launch_id)
    if launch is None:
        log.warning(
            "%s: run %s has no launch %s in %s; is FUSERY_STORE of this worker the run's store?",
            *(task.key, run_id, launch_id, store.url),
        )
        return None
    if launch.ended is not None:
        log.info("%s: launch %s of run %s has ended (%s)", task.key, launch_id, run_id, launch.ended)
        return None
    if task not in launch.plan:
        log.warning("%s is dropped: the plan of run %s has no such shard", task.key, run_id)
        return None
    if store.find(launch.plan.artefact(task)) is not None:
        return None
    missing = [need.key for need in launch.plan.needs(task) if store.find(launch.plan.artefact(need)) is None]
    if missing:
        # A coordinator asks for nothing before its needs are there; where they were damaged since, it asks again.
        log.warning("%s of run %s is dropped: %s is not in the store", task.key, run_id, missing[0])
        return None
    if _is_redelivered() and _killed_attempts(store, run_id, launch_id, task) >= MAX_ATTEMPTS:
        # Celery would deliver for ever what kills its process; the coordinator counts, and decides.
        log.warning("%s of run %s killed its processes before; left to the coordinator", task.key, run_id)
        return None
    return launch


def _killed_attempts(store: Store, run_id: str, launch: str, task: ShardTask) -> int:
    """How many processes left a started note of the task, or were counted as killed by the coordinator."""
    folders = started_folder(run_id, launch), attempts_folder(run_id, launch)
    names = {name.rpartition("/")[2] for folder in folders for name in store.list_notes(folder)}
    return sum(name.startswith(f"{task.key}.") for name in names)


def _work(store: Store, launch: Launch, task: ShardTask, was_tried: bool) -> None:
    attempt = Attempt(store, launch.plan.run_id, launch.id, task, uuid.uuid4().hex[:8], notes_each=was_tried)
    attempt.start()
    # Of the message; a task that is called directly has none.
    parent = tracing.parse((current_task.request.headers or {}).get(tracing.HEADER))
    place: dict[str, str | int] = {"run": launch.plan.run_id, "source": task.source, "shard": task.shard}
    # In a `finally`: a process that is told to stop takes its note along; one that is killed leaves it.
    try:
        with tracing.span(f"{task.hop.value} shard", parent, **place) as span:
            try:
                perform(store, launch, task, attempt.at)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # every failure is counted, whatever its class
                span.fail(error)
                _failed(store, launch, task, attempt, error)
            else:
                log.info("%s of run %s is done", task.key, launch.plan.run_id)
    finally:
        attempt.end()


def perform(store: Store, launch: Launch, task: ShardTask, at: At) -> Entry:
    """Makes the artefact of `task`; `at` is told which documents come next."""
    if task.hop is not Hop.CAPTURE:
        return HOPS[task.hop](store, launch.plan, task, at=at)
    return _capture(store, launch, task, at)


def _capture(store: Store, launch: Launch, task: ShardTask, at: At) -> Entry:
    """Hop 1; a source that is away is found out at once, so that tasks of other sources do not wait behind this one.

    Raises:
        SourceAway, SourceLost: the source is, before or while it was asked.
    """
    _knock(launch, task.source, SourceAway)
    try:
        with launch.client(task.source, retry_for_s=_PATIENCE_S) as client:
            return capture(store, launch.plan, task, client, at=at)
    except Overloaded as full:
        raise SourceAway(f"source {task.source}: {without_address(full)}") from full
    except Unavailable:
        _knock(launch, task.source, SourceLost)
        raise


def _knock(launch: Launch, source: str, kind: type[SourceAway]) -> None:
    """Returns if the source answers; else raises `kind`, in words without its address, which may be an inner port."""
    with launch.client(source, timeout_s=_KNOCK_S, retry_for_s=_KNOCK_AGAIN_S) as client:
        try:
            client.knock()
        except Unavailable as error:
            raise kind(f"source {source}: {without_address(error)}") from error


def _failed(store: Store, launch: Launch, task: ShardTask, attempt: Attempt, error: BaseException) -> None:
    run_id = launch.plan.run_id
    how = "waits" if isinstance(error, SourceAway) else "failed"
    log.warning("%s of run %s %s: %s", task.key, run_id, how, error, exc_info=not isinstance(error, FuseryError))
    try:
        if isinstance(error, Corrupt) and error.artefact is not None:
            store.discard(error.artefact)
        is_retryable = not isinstance(error, FuseryError) or error.retryable
        attempt.failed(str(error) or type(error).__name__, type(error).__name__, is_retryable)
    except (FuseryError, OSError) as away:
        log.warning("%s of run %s: its failure can't be noted: %s", task.key, run_id, away)


def _is_redelivered() -> bool:
    """Whether the message was given to a process before that did not end its task."""
    return bool((current_task.request.delivery_info or {}).get("redelivered"))

"""The Celery tasks: a thin shell round the hops that reports failures to the store.

A task never fails in Celery's sense: what went wrong is written as a note of the run, where the coordinator
counts attempts and people read reasons.
"""

from __future__ import annotations

import logging
import uuid

from celery import current_task

from fusery import tracing
from fusery.errors import ConfigError, Corrupt, FuseryError, Unavailable
from fusery.formats.store import Entry, Store
from fusery.settings import settings
from fusery.source.client import client_from_settings
from fusery.worker import hops
from fusery.worker.app import TASK_NAME, app_from_environment
from fusery.worker.plan import Hop, Plan, ShardTask, addresses_name, attempts_folder, plan_name, started_folder

log = logging.getLogger(__name__)
app = app_from_environment()


@app.task(name=TASK_NAME[Hop.CAPTURE])  # type: ignore[untyped-decorator]
def capture_shard(run_id: str, launch: str, source: str, shard: int) -> None:
    """Hop 1 for one shard of one source."""
    _attempt(run_id, launch, ShardTask(Hop.CAPTURE, source, shard))


@app.task(name=TASK_NAME[Hop.ALIGN])  # type: ignore[untyped-decorator]
def align_shard(run_id: str, launch: str, source: str, shard: int) -> None:
    """Hop 2 for one shard of one source."""
    _attempt(run_id, launch, ShardTask(Hop.ALIGN, source, shard))


@app.task(name=TASK_NAME[Hop.FUSE])  # type: ignore[untyped-decorator]
def fuse_shard(run_id: str, launch: str, source: str, shard: int) -> None:
    """Hop 3 for one shard; `source` is ''."""
    _attempt(run_id, launch, ShardTask(Hop.FUSE, source, shard))


def _attempt(run_id: str, launch: str, task: ShardTask) -> None:
    store_url = settings().store
    if store_url is None:
        raise ConfigError("FUSERY_STORE is not set; a worker needs the store of its runs")
    store = Store(store_url)
    started = f"{started_folder(run_id, launch)}/{task.key}.{uuid.uuid4().hex[:8]}.json"
    store.write_note(started, {"task": task.key})
    # Of the message; a task that is called directly has none.
    parent = tracing.parse((current_task.request.headers or {}).get(tracing.HEADER))
    with tracing.span(f"{task.hop.value} shard", parent, run=run_id, source=task.source, shard=task.shard) as span:
        try:
            perform(store, run_id, task)
        except Exception as error:  # every failure is counted, whatever its class
            span.fail(error)
            _failed(store, run_id, launch, task, error)
        else:
            log.info("%s of run %s is done", task.key, run_id)
    # Not in a `finally`: a process that is killed or told to stop at once leaves its note.
    store.remove_note(started)


def _failed(store: Store, run_id: str, launch: str, task: ShardTask, error: Exception) -> None:
    log.warning("%s of run %s failed: %s", task.key, run_id, error, exc_info=not isinstance(error, FuseryError))
    if isinstance(error, Corrupt) and error.artefact is not None:
        store.discard(error.artefact)
    _report(store, run_id, launch, task, error)


def perform(store: Store, run_id: str, task: ShardTask) -> Entry:
    """Makes the artefact of `task` unless it is there."""
    note = store.read_note(plan_name(run_id))
    if note is None:
        raise Unavailable(f"run {run_id} has no plan in {store.url}; is the worker's FUSERY_STORE the run's store?")
    plan = Plan.model_validate(note)
    done = store.find(plan.artefact(task))
    if done is not None:
        return done
    if task.hop is not Hop.CAPTURE:
        return hops.HOPS[task.hop](store, plan, task)
    addresses = store.read_note(addresses_name(run_id)) or {}
    if task.source not in addresses:
        raise Unavailable(f"run {run_id}: source {task.source} has no address yet")
    with client_from_settings(addresses[task.source]) as client:
        return hops.capture(store, plan, task, client)


def _report(store: Store, run_id: str, launch: str, task: ShardTask, error: Exception) -> None:
    note = {
        "task": task.key,
        "reason": str(error) or type(error).__name__,
        "error": type(error).__name__,
        "retryable": not isinstance(error, FuseryError) or error.retryable,
    }
    store.write_note(f"{attempts_folder(run_id, launch)}/{task.key}.{uuid.uuid4().hex[:8]}.json", note)

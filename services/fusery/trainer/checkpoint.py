"""Checkpoints that are either whole or not there, and open no pickle.

    checkpoints/step-00000100/
      tensors.safetensors   parameters and the optimizer's moments, by parameter name
      state.json            step, counters, the configuration that they belong to, versions
      complete.json         SHA-256 of the other two; written last

Written beside, synced to disk, renamed. The loader takes the newest one whose digests hold. Random numbers need no
state: each step seeds them from (seed, step).

`Writer` writes them at once, or while the steps go on: where the tensors on the CPU are copies in any case, those of an
accelerator. The training then waits for the copy alone. On a CPU a copy takes as long as digest and write together (4 s
for each of the two at 135 M parameters), so there is nothing to win. A process that ends, however it ends, leaves whole
checkpoints and at most one draft.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fusery.runtime.errors import Corrupt, Mismatch, StoreFull
from fusery.runtime.text.json import read_json_object
from fusery.trainer.weights import like, whole

log = logging.getLogger(__name__)

TENSORS, STATE, COMPLETE = "tensors.safetensors", "state.json", "complete.json"
FORMAT_VERSION = 1
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a training is: steps done, epoch of the last, skipped steps (in all; the last in a row), tokens, time.

    `best_step` of the checkpoints has the least held-out loss, `best_nats`; `tracking_run`: the run's id in MLflow.
    """

    step: int = 0
    epoch: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    best_step: int | None = None
    best_nats: float | None = None
    tracking_run: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    cursor: Cursor
    tensors: Mapping[str, torch.Tensor]


def save(
    folder: Path, cursor: Cursor, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], keep: int
) -> Path:
    """The folder of a new checkpoint in `folder`; the newest `keep` and the best stay, others are removed.

    Raises:
        StoreFull: there is no room for it; those before it are kept.
    """
    final = folder / f"step-{cursor.step:08d}"
    draft = final.with_suffix(".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _fill(draft, cursor, tensors, config)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        if _is_for_want_of_room(error):
            raise StoreFull.at(str(draft), _bytes_of(tensors), shutil.disk_usage(folder).free) from error
        raise
    publish(draft, final)
    _prune(folder, keep, cursor.best_step)
    return final


def _fill(draft: Path, cursor: Cursor, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    if _bytes_of(tensors) > shutil.disk_usage(draft).free:
        raise OSError(errno.ENOSPC, "less room than the tensors take")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft / TENSORS)
    state = {
        "format_version": FORMAT_VERSION,
        "cursor": asdict(cursor),
        "config": dict(config),
        "versions": {"torch": torch.__version__},
    }
    _write_json(draft / STATE, state)
    _write_json(draft / COMPLETE, {name: file_digest(draft / name) for name in (TENSORS, STATE)})


def _bytes_of(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _is_for_want_of_room(error: Exception) -> bool:
    # safetensors writes in Rust and gives the system's words in place of its number.
    is_number = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return is_number or os.strerror(errno.ENOSPC) in str(error)


def publish(draft: Path, final: Path) -> None:
    """`draft` becomes `final` in one step that survives a power cut; an older `final` is replaced."""
    for path in sorted(draft.rglob("*")):
        _sync(path)
    _sync(draft)
    if final.exists():
        shutil.rmtree(final)
    draft.replace(final)
    _sync(final.parent)


def newest(folder: Path, config: Mapping[str, Any]) -> Checkpoint | None:
    """The newest checkpoint in `folder` that is whole; None if there is none.

    Raises:
        Mismatch: it belongs to another configuration; the message names the keys that differ.
    """
    for path in reversed(_folders(folder)):
        try:
            state = _verified_state(path)
            if state["format_version"] != FORMAT_VERSION:
                raise Corrupt(f"format version {state['format_version']}, expected {FORMAT_VERSION}")
            _check_config(path, state["config"], config)
            return Checkpoint(Cursor(**state["cursor"]), load_file(path / TENSORS))
        except (Corrupt, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("checkpoint %s is not usable, trying the one before: %s", path, error)
    return None


def training_tensors(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, keeps: bool = True, copies: bool = False
) -> dict[str, torch.Tensor]:
    """Trained parameters and their moments by name, whole and on the CPU; a tied parameter stands once.

    Without `keeps` nothing: the process only gives its parts of split ones. With `copies`, later steps change none.
    """
    tensors: dict[str, torch.Tensor] = {}

    def take(name: str, tensor: torch.Tensor) -> None:
        found = whole(tensor.detach())
        if keeps:
            on_cpu = found.cpu()
            tensors[name] = on_cpu.clone() if copies and on_cpu is found else on_cpu

    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        take(f"parameter.{name}", parameter)
        for key, value in optimizer.state.get(parameter, {}).items():
            take(f"{key}.{name}", value)
    return tensors


def restore(checkpoint: Checkpoint, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts `training_tensors` back."""
    tensors = checkpoint.tensors
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            parameter.copy_(like(tensors[f"parameter.{name}"], parameter))
            moments = {key: tensors[f"{key}.{name}"] for key in _MOMENTS if f"{key}.{name}" in tensors}
            if moments:
                # AdamW keeps its step count on the CPU whatever the parameter's device.
                optimizer.state[parameter] = {
                    key: value.clone() if key == "step" else like(value, parameter).clone()
                    for key, value in moments.items()
                }


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified_state(path: Path) -> dict[str, Any]:
    digests = read_json_object(path / COMPLETE)
    for name in (TENSORS, STATE):
        found = file_digest(path / name)
        if digests[name] != found:
            raise Corrupt(f"{name}: SHA-256 is {found[:12]}…, {COMPLETE} says {digests[name][:12]}…")
    return read_json_object(path / STATE)


def _check_config(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    keys = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    if keys:
        differing = ", ".join(f"{key} ({found.get(key)!r} there, {expected.get(key)!r} now)" for key in keys)
        raise Mismatch(f"checkpoint {path} is of another configuration: {differing}; use another output folder")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".tmp")


def _prune(folder: Path, keep: int, best_step: int | None) -> None:
    old = [path for path in _folders(folder)[:-keep] if path.name != f"step-{best_step or 0:08d}"]
    for path in [*old, *folder.glob("step-*.tmp")]:
        shutil.rmtree(path)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Writer:
    """Carries out writes; leaving the block waits for the last one."""

    def __init__(self, *, beside: bool) -> None:
        self.beside = beside
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[object] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception:
            if error is None:
                raise
            # Why the training ended is what its user wants to know first.
            log.exception("the last checkpoint could not be written either")
        finally:
            self._pool.shutdown()

    def write(self, write: Callable[[], object]) -> None:
        """Carries `write` out, now or beside what follows; raises what it, or the one before, raises."""
        self.wait()
        if self.beside:
            self._last = self._pool.submit(write)
        else:
            write()

    def check(self) -> None:
        """Raises what a write that has ended meanwhile raised."""
        if self._last is not None and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the last write has ended; raises what it raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

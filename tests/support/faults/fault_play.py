"""Plays one fault with one seed, and says how it went: `FAULTS` has all of them by name."""

from __future__ import annotations

import shutil
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from support.faults import faults_of_broker, faults_of_bytes, faults_of_processes
from support.faults.fault_kinds import FAULTS, Fault
from support.faults.fault_rig import Rig
from support.faults.fault_scene import Scene

__all__ = ["FAULTS", "Fault", "Played", "play", "why_not"]
_ALL = (faults_of_processes, faults_of_broker, faults_of_bytes)
"""Their import fills FAULTS."""


@dataclass(frozen=True, slots=True)
class Played:
    """`error`: what was not as it must be, None: nothing. `folder`: what is left of a run that failed."""

    fault: str
    seed: int
    seconds: float
    recovery_s: float | None
    error: str | None
    folder: str | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def why_not(fault: Fault) -> str | None:
    """Why this fault can't be had on this machine; None: it can."""
    if fault.name == "disk-full" and not faults_of_bytes.may_mount():
        return "no small file system can be mounted here (that takes root)"
    return None


def play(rig: Rig, fault: Fault, seed: int) -> Played:
    """Never raises but for Ctrl-C: what went wrong is in the result."""
    rig.tidy(new_workers=fault.new_workers)
    scene = Scene(rig, fault.name, seed)
    began = time.monotonic()
    error = None
    try:
        fault.act(scene)
    except Exception as problem:  # whatever it is, the suite goes on
        error = f"{type(problem).__name__}: {problem}"
        (scene.folder / "error.txt").write_text(traceback.format_exc())
    finally:
        scene.close()
    seconds = time.monotonic() - began
    folder = None if error is None else _keep(rig, scene)
    if error is not None or fault.spoils_workers:
        rig.usual_workers()
    if error is None:
        shutil.rmtree(scene.folder)
    recovery_s = None if scene.recovery_s is None else round(scene.recovery_s, 2)
    return Played(fault.name, seed, round(seconds, 1), recovery_s, error, folder, tuple(scene.notes))


def _keep(rig: Rig, scene: Scene) -> str:
    """The folder with the store, the logs and the error of a run that failed."""
    for log in rig.folder.glob("*.log"):
        shutil.copy(log, scene.folder)
    kept: Path = scene.folder / "store"
    if rig.store_folder.exists():
        shutil.copytree(rig.store_folder, kept, symlinks=True)
    return str(scene.folder)

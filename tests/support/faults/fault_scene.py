"""One run of the hops that a fault disturbs, and how it is judged: by the store of a run that nothing disturbed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fusery.hops.store.store import Store
from fusery.runtime.errors import FuseryError
from support.faults.fault_processes import HERE, Process, wait_until
from support.faults.fault_rig import SHARDS, Rig

MADE = ("captures", "aligned", "fused")
"""Folders of what the hops make."""
KEPT = ("corpora", "tokenizers", "maps")
RUN_TIMEOUT_S = 240.0
_ENTRY = ".entry.json"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a coordinator ended: exit code, and what its last line of output says."""

    code: int
    dead: tuple[Mapping[str, Any], ...]
    error: str | None
    message: str


@dataclass(frozen=True, slots=True)
class AtWork:
    """A task under way: the process that works on it, and the documents it is at."""

    key: str
    pid: int
    documents: tuple[str, ...]


@dataclass
class Scene:
    """One run of the hops that a fault disturbs. `chance` decides everything about the fault that is not fixed.

    `recovery_s`: from the fault, or its end, until what it held up was done.
    """

    rig: Rig
    fault: str
    seed: int
    recovery_s: float | None = None
    notes: list[str] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)
    _coordinators: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.fault} {self.seed}")
        self.run_id = f"{self.fault}-{self.seed}"
        self.folder = self.rig.folder / "scenes" / self.run_id
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.plan = self.rig.plan(self.run_id)
        root = self.rig.store_folder
        self._entries = {task.key: root / (self.plan.artefact(task) + _ENTRY) for task in self.plan.tasks}
        self.addresses = {name: source.address for name, source in self.rig.sources.items()}

    @property
    def store(self) -> Store:
        return Store(str(self.rig.store_folder))

    def begin(self, *how: str, environment: Mapping[str, str] | None = None) -> Process:
        """A coordinator of this run, started."""
        (self.folder / "plan.json").write_text(self.plan.model_dump_json())
        (self.folder / "addresses.json").write_text(json.dumps(self.addresses))
        if not (self.folder / "inputs").exists():
            (self.folder / "inputs").symlink_to(self.rig.inputs)
        number = len(self._coordinators)
        coordinator = Process(
            f"coordinator-{number}",
            [sys.executable, str(HERE / "fault_coordinator.py"), str(self.folder), *how],
            {
                "FUSERY_BROKER_URL": self.rig.broker.url,
                "FUSERY_STORE": str(self.rig.store_folder),
                **(environment or {}),
            },
            self.folder / f"coordinator-{number}.log",
        )
        self._coordinators.append(coordinator)
        coordinator.start()
        return coordinator

    def finish(self, coordinator: Process | None = None, timeout_s: float = RUN_TIMEOUT_S) -> Ended:
        """How the coordinator (None: the last one) ended."""
        coordinator = coordinator or self._coordinators[-1]
        try:
            code = coordinator.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(
                f"{coordinator.name} has not ended after {timeout_s:.0f} s; {self.done()} of {len(self.plan.tasks)} "
                f"tasks are done, not {self.missing()[:5]}; see {coordinator.log}"
            ) from error
        last = coordinator.last_words(1)
        said = json.loads(last) if last.startswith("{") else {"dead": [], "error": None, "message": last}
        return Ended(code, tuple(said["dead"]), said["error"], said["message"] or "")

    def close(self) -> None:
        for coordinator in self._coordinators:
            coordinator.kill()

    def done(self) -> int:
        """How many artefacts of the hops have an entry."""
        folders = [self.rig.store_folder / made for made in MADE]
        return sum(name.endswith(_ENTRY) for folder in folders for _, _, names in os.walk(folder) for name in names)

    def at_moment(self, lowest: int = 2, highest: int = 36) -> int:
        """Waits for a seeded moment: so many tasks done (of 60), and some milliseconds. How many are done then."""
        lowest, highest = (max(1, tasks * self.rig.shards // SHARDS) for tasks in (lowest, highest))
        count, pause_s = self.chance.randint(lowest, highest), self.chance.uniform(0, 0.3)
        wait_until(lambda: self.done() >= count or self._has_ended(), 120, f"{count} tasks to be done")
        time.sleep(pause_s)
        if self._has_ended():
            raise RuntimeError(f"the run ended before the fault; see {self._coordinators[-1].log}")
        return self.done()

    def is_done(self, key: str) -> bool:
        return self._entries[key].exists()

    def at_work(self) -> list[AtWork]:
        """The tasks under way that have not made their artefact yet."""
        found = []
        for path in (self.rig.store_folder / "runs" / self.run_id).glob("**/started/*.json"):
            note = None
            with contextlib.suppress(FuseryError):
                note = self.store.read_note(path.relative_to(self.rig.store_folder).as_posix())
            if note is not None and not self.is_done(note["task"]):
                pid = int(str(note["worker"]).rpartition(":")[2])
                found.append(AtWork(note["task"], pid, tuple(note.get("documents", ()))))
        return found

    def busy(self, pids: list[int] | None = None, timeout_s: float = 60) -> AtWork:
        """A task that one of the processes `pids` (None: any) is at right now."""
        found: list[AtWork] = []

        def look() -> bool:
            found[:] = [work for work in self.at_work() if pids is None or work.pid in pids]
            return bool(found)

        wait_until(look, timeout_s, f"a task at work in {pids or 'any process'}")
        return self.chance.choice(found)

    def failed_attempts(self) -> list[str]:
        """Names of the notes of attempts that failed."""
        return [path.name for path in (self.rig.store_folder / "runs" / self.run_id).glob("**/attempts/*.json")]

    def recovered(self, key: str | None = None, *, unpublished: bool = False, timeout_s: float = RUN_TIMEOUT_S) -> None:
        """Measures until the task `key` is done, or (None) any task that nobody is at now.

        `unpublished`: any that no coordinator can have published yet, for what it needs is not done.
        """
        waited_for = {key} if key else set(self.missing()) - {work.key for work in self.at_work()}
        if unpublished:
            waited_for = {t.key for t in self.plan.tasks if not all(self.is_done(n.key) for n in self.plan.needs(t))}
        self.recovery_s = wait_until(
            lambda: not waited_for or any(map(self.is_done, waited_for)) or self._has_ended(),
            *(timeout_s, key or "another task to be done"),
        )

    def missing(self) -> list[str]:
        return [key for key, entry in self._entries.items() if not entry.exists()]

    def artefacts(self) -> list[str]:
        """Names of everything in the store that has an entry."""
        root = self.rig.store_folder
        entries = [path for kind in (*KEPT, *MADE) for path in (root / kind).rglob(f"*{_ENTRY}")]
        return sorted(path.relative_to(root).as_posix().removesuffix(_ENTRY) for path in entries)

    def expect_code_0(self, ended: Ended) -> None:
        assert ended.code == 0, f"the coordinator ended with {ended.code}: {ended.message} {ended.dead}"

    def expect_done(self, ended: Ended) -> None:
        """Fails unless the run is whole: exit code 0, no dead letter, and the very store of the undisturbed run."""
        self.expect_code_0(ended)
        self.expect_same_store()

    def expect_same_store(self) -> None:
        found, expected = snapshot(self.rig.store_folder), self.rig.undisturbed
        lost, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        assert not lost, f"{len(lost)} files are lost: {lost[:5]}"
        assert not extra, f"{len(extra)} files too many: {extra[:5]}"
        other = sorted(name for name, sha in expected.items() if found[name] != sha)
        assert not other, f"{len(other)} files have other bytes: {other[:5]}"
        quarantine = self.rig.store_folder / "quarantine"
        aside = sorted(path.name for path in quarantine.rglob("*")) if quarantine.exists() else []
        assert not aside, f"two writers made different bytes: {aside[:5]}"
        stray = [path for path in (self.rig.store_folder / "runs").rglob("*") if path.is_file()]
        stray = [path for path in stray if path.suffix != ".json" or path.name.startswith(".")]
        assert not stray, f"files of runs/ that are no notes: {stray[:5]}"

    def _has_ended(self) -> bool:
        return bool(self._coordinators) and not any(c.is_running for c in self._coordinators)


def snapshot(root: Path) -> dict[str, str]:
    """Path → SHA-256 of every artefact and every entry, the manifest; for an entry of what it says.

    tmp/, quarantine/ and runs/ are left out, and so is an empty folder. A file of any other kind is not.
    """
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and name.partition("/")[0] not in ("tmp", "quarantine", "runs"):
            found[name] = hashlib.sha256(_content(root, path, name)).hexdigest()
    return found


def _content(root: Path, path: Path, name: str) -> bytes:
    if not name.endswith(_ENTRY):
        return path.read_bytes()
    entry = Store(str(root)).find(name.removesuffix(_ENTRY))
    return b"damaged" if entry is None else json.dumps(asdict(entry), sort_keys=True).encode()


@contextlib.contextmanager
def open_rig(folder: Path, shards: int = SHARDS) -> Iterator[Rig]:
    """All processes, after a run that nothing disturbed."""
    with Rig(folder, shards) as rig:
        scene = Scene(rig, "undisturbed", 0)
        scene.begin()
        ended = scene.finish()
        if ended.code != 0 or (left := scene.missing()):
            raise RuntimeError(f"the undisturbed run did not finish: {ended}, without {left[:5]}; see {folder}")
        rig.undisturbed = snapshot(rig.store_folder)
        shutil.copytree(rig.store_folder, rig.undisturbed_store)
        yield rig

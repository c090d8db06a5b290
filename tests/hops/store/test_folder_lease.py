"""One trainer in a folder: the second is refused, the heir of a dead one is not, one that lost its lease ends."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fusery.hops.store.lease import NAME, FolderLease, Occupied, lives, owner_here
from fusery.hops.store.store import seal

MACHINE = owner_here().split("/")[1]
QUICK = {"beat_s": 0.02, "silent_s": 0.4}


def write(folder: Path, owner: str, beat: int = 3) -> None:
    content = {"owner": owner, "beat": beat}
    draft = folder / "written-aside"
    draft.write_bytes(seal(content))
    draft.replace(folder / NAME)


def test_a_lease_is_there_while_it_is_held_and_gone_afterwards(tmp_path: Path) -> None:
    with FolderLease(tmp_path, **QUICK) as lease:
        assert (tmp_path / NAME).exists()
        lease.check()
    assert list(tmp_path.iterdir()) == []


def test_a_second_trainer_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with FolderLease(tmp_path, **QUICK) as first:
        with pytest.raises(Occupied, match="trains here"):
            FolderLease(tmp_path, **QUICK).__enter__()
        first.check()


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_at_once(tmp_path: Path) -> None:
    write(tmp_path, f"host/{MACHINE}/999999999/123/abc")
    with FolderLease(tmp_path, beat_s=5, silent_s=10_000):
        pass


def test_the_lease_of_a_killed_process_that_nobody_has_asked_for_is_taken_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    start = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    owner = f"host/{MACHINE}/{process.pid}/{start}/abc"
    assert lives(owner) is True
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert lives(owner) is False
    write(tmp_path, owner)
    with FolderLease(tmp_path, beat_s=5, silent_s=10_000):
        pass
    process.wait()


def test_a_process_number_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    own = owner_here().split("/")
    assert lives("/".join([*own, "abc"])) is True
    assert lives("/".join([*own[:3], "1", "abc"])) is False


@pytest.mark.parametrize("text", ["", "{", '{"owner": "x"}', '{"owner": "x", "beat": 1, "sha256": "no"}', "[]"])
def test_a_damaged_lease_that_nobody_renews_is_taken_over(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text)
    with FolderLease(tmp_path, **QUICK):
        pass


def test_a_foreign_lease_that_stands_still_is_taken_over(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/boot-1/5/7/abc")
    with FolderLease(tmp_path, **QUICK) as lease:
        lease.check()


def test_a_foreign_lease_that_beats_is_respected(tmp_path: Path) -> None:
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while not ended.is_set():
            write(tmp_path, "elsewhere/boot-1/5/7/abc", count)
            count += 1
            ended.wait(0.05)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        while not (tmp_path / NAME).exists():
            time.sleep(0.01)
        with pytest.raises(Occupied, match="elsewhere"):
            FolderLease(tmp_path, beat_s=0.02, silent_s=30).__enter__()
    finally:
        ended.set()
        thread.join()


def test_a_trainer_whose_lease_was_taken_ends_and_leaves_the_other_one_alone(tmp_path: Path) -> None:
    with FolderLease(tmp_path, **QUICK) as lease:
        write(tmp_path, "elsewhere/boot-1/5/7/abc")
        with pytest.raises(Occupied, match="taken over by elsewhere"):
            _check_for_a_while(lease)
    assert (tmp_path / NAME).exists()


def _check_for_a_while(lease: FolderLease) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lease.check()
        time.sleep(0.01)

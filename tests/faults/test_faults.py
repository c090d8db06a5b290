from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.faults.fault_play import FAULTS, play, why_not
from support.faults.fault_rig import Rig
from support.faults.fault_scene import open_rig, snapshot

SEED = 1


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with open_rig(tmp_path_factory.mktemp("faults"), shards=6) as opened:
        yield opened


@pytest.mark.parametrize(
    "name",
    [
        "child-killed",
        "source-killed",
        "reply-flipped",
        "delivered-twice",
        "capture-damaged",
        "coordinator-killed",
        "broker-flushed",
        "poison-document",
    ],
)
def test_a_fault_leaves_the_bytes_of_the_undisturbed_run(rig: Rig, name: str) -> None:
    fault = FAULTS[name]
    if (why := why_not(fault)) is not None:
        pytest.skip(why)
    played = play(rig, fault, SEED)
    assert played.error is None, f"{played.error}; see {played.folder}"


def test_the_comparison_sees_a_byte_a_lost_file_and_a_stray_one(rig: Rig, tmp_path: Path) -> None:
    shard = next(name for name in rig.undisturbed if name.startswith("fused/") and name.endswith(".parquet"))
    copy = tmp_path / "copy"
    for name in (shard, f"{shard}.entry.json"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((rig.undisturbed_store / name).read_bytes())
    same = {name: sha for name, sha in rig.undisturbed.items() if name.startswith(shard)}
    assert snapshot(copy) == same
    content = bytearray((copy / shard).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / shard).write_bytes(content)
    assert snapshot(copy)[shard] != same[shard]
    (copy / "fused" / ".left.tmp").write_bytes(b"")
    assert snapshot(copy).keys() - same.keys() == {"fused/.left.tmp"}
    (copy / f"{shard}.entry.json").unlink()
    assert snapshot(copy).keys() < {*same, "fused/.left.tmp"}


def test_every_fault_says_what_it_does() -> None:
    assert len(FAULTS) >= 20
    assert all(fault.what for fault in FAULTS.values())

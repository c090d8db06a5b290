"""Faults of bytes: in replies, on the wire, on the disk; a full disk; and documents that nothing can work on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from support.faults.fault_kinds import fault
from support.faults.fault_processes import POLL_S, BadWire, is_alive, send, wait_until
from support.faults.fault_rig import DOCUMENTS_PER_SHARD
from support.faults.fault_scene import RUN_TIMEOUT_S, Scene
from support.faults.fault_source import Orders


@fault("reply-flipped", "a bit of a reply is flipped in the server, after the CRC was computed")
def reply_flipped(scene: Scene) -> None:
    scene.begin()
    scene.at_moment(1, 8)
    name = scene.chance.choice(sorted(scene.rig.sources))
    bit, message = scene.chance.randrange(1 << 20), scene.chance.randint(1, 6)
    happened = scene.rig.sources[name].order_fault(flip_bit=bit, message=message)
    wait_until(happened.exists, 60, "a reply to be damaged")
    scene.recovered()
    scene.expect_done(scene.finish())
    assert any("CRC-32 is" in worker.last_words(2000) for worker in scene.rig.workers), "nobody noticed"


@fault("wire-flipped", "a bit is flipped in the TCP stream from a source")
def wire_flipped(scene: Scene) -> None:
    with ExitStack() as stack:
        _flip_on_the_wire(scene, stack, 6000, in_replies=True)
        scene.recovered()
        scene.expect_done(scene.finish())


@fault("request-flipped", "a bit is flipped in the TCP stream to a source")
def request_flipped(scene: Scene) -> None:
    with ExitStack() as stack:
        _flip_on_the_wire(scene, stack, 2000, in_replies=False)
        ended = scene.finish()
        scene.notes.append(f"the run ended with {ended.code} {ended.dead}")
        if ended.code == 3:
            # What a source refuses for good is not asked again in this run: it may be what was meant.
            scene.begin()
            ended = scene.finish()
        scene.expect_done(ended)


def _flip_on_the_wire(scene: Scene, stack: ExitStack, within: int, *, in_replies: bool) -> None:
    wires = {name: stack.enter_context(BadWire(s.port).open()) for name, s in scene.rig.sources.items()}
    scene.addresses = {name: f"127.0.0.1:{wire.port}" for name, wire in wires.items()}
    scene.begin()
    scene.at_moment(1, 8)
    wire = wires[scene.chance.choice(sorted(wires))]
    at, bit = scene.chance.randrange(within), scene.chance.randrange(8)
    wire.arm(at, bit, in_replies=in_replies)
    wait_until(lambda: wire.flips, 60, "a byte to be damaged")
    scene.notes.append(f"bit {bit} of byte {at} from then on")


def damage(path: Path, scene: Scene) -> str:
    """Flips a bit of the file or cuts it off, in place; what was done."""
    content = bytearray(path.read_bytes())
    before = bytes(content)
    if scene.chance.random() < 0.5:
        place, bit = scene.chance.randrange(len(content)), scene.chance.randrange(8)
        content[place] ^= 1 << bit
        what = f"bit {bit} of byte {place} flipped"
    else:
        content = content[: scene.chance.randrange(len(content))]
        what = f"cut to {len(content)} bytes"
    assert bytes(content) != before
    path.write_bytes(content)
    return what


def _damage_one(scene: Scene, folder: str, suffix: str) -> None:
    """At a seeded moment a file of that folder is damaged; the run ends in order, and what is unsound is made again."""
    scene.begin()
    scene.at_moment(6, 40)
    root = scene.rig.store_folder
    wait_until(lambda: _whole(root / folder, suffix), 60, f"files in {folder}")
    path = scene.chance.choice(_whole(root / folder, suffix))
    scene.notes.append(f"{path.relative_to(root)}: {damage(path, scene)}")
    scene.expect_code_0(scene.finish())
    unsound = [name for name in scene.artefacts() if not scene.store.is_whole(name)]
    scene.notes.append(f"found afterwards: {unsound or 'nothing, it was found in the run'}")
    assert len(unsound) <= 1
    for name in unsound:
        scene.store.discard(name)
    scene.begin()
    scene.expect_done(scene.finish())


def _whole(folder: Path, suffix: str) -> list[Path]:
    """Files of complete artefacts, data or (suffix .entry.json) entries."""
    entries = sorted(folder.rglob("*.entry.json"))
    return entries if suffix else [path.with_name(path.name.removesuffix(".entry.json")) for path in entries]


@fault("corpus-damaged", "a corpus shard is cut off or a bit of it flipped", spoils_workers=True)
def corpus_damaged(scene: Scene) -> None:
    _damage_one(scene, "corpora", "")


@fault("capture-damaged", "a captured shard is cut off or a bit of it flipped")
def capture_damaged(scene: Scene) -> None:
    _damage_one(scene, "captures", "")


@fault("aligned-damaged", "an aligned shard is cut off or a bit of it flipped")
def aligned_damaged(scene: Scene) -> None:
    _damage_one(scene, "aligned", "")


@fault("fused-damaged", "a fused shard is cut off or a bit of it flipped")
def fused_damaged(scene: Scene) -> None:
    _damage_one(scene, "fused", "")


@fault("entry-damaged", "an entry of the manifest is cut off or a bit of it flipped", spoils_workers=True)
def entry_damaged(scene: Scene) -> None:
    _damage_one(scene, scene.chance.choice(("corpora", "captures", "aligned", "fused")), ".entry.json")


@fault("note-damaged", "a note of the run is cut off or a bit of it flipped")
def note_damaged(scene: Scene) -> None:
    scene.begin()
    scene.at_moment(6, 40)
    folder = scene.rig.store_folder / "runs" / scene.run_id
    path = scene.chance.choice(sorted(folder.rglob("*.json")))
    scene.notes.append(f"{path.relative_to(folder)}: {damage(path, scene)}")
    ended = scene.finish()
    scene.notes.append(f"the run ended with {ended.code} {ended.message}")
    if ended.code != 0:
        assert ended.message, "the run failed and did not say why"
        scene.begin()
        ended = scene.finish()
    scene.expect_done(ended)


@fault("disk-full", "the store's file system fills up; space is freed, and the same command given", spoils_workers=True)
def disk_full(scene: Scene) -> None:
    folder = scene.rig.store_folder
    whole_pages = sum(-(-path.stat().st_size // 4096) for path in scene.rig.undisturbed_store.rglob("*.*"))
    pages = int(whole_pages * scene.chance.uniform(0.3, 0.8))
    _run("mount", "-t", "tmpfs", "-o", f"size={pages * 4096},huge=never", "fusery-faults", str(folder))
    try:
        scene.begin()
        ended = scene.finish()
        assert (ended.code, ended.error) == (1, "StoreFull"), f"expected StoreFull, got {ended}"
        scene.notes.append(ended.message)
        free = os.statvfs(folder)
        scene.notes.append(f"{free.f_bavail * free.f_frsize} bytes free, {len(scene.missing())} tasks left")
        assert scene.missing()
        _run("mount", "-o", "remount,size=256m", str(folder))
        scene.begin()
        scene.recovered()
        scene.expect_done(scene.finish())
    finally:
        scene.close()
        scene.rig.usual_workers()
        _run("umount", "-l", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def may_mount() -> bool:
    """Whether a small file system can be had here, to be filled."""
    return os.geteuid() == 0 and _mounts()


def _mounts() -> bool:
    place = Path("/tmp") / f"fusery-mount-{os.getpid()}"
    place.mkdir(exist_ok=True)
    try:
        _run("mount", "-t", "tmpfs", "-o", "size=64k", "fusery-faults", str(place))
        _run("umount", str(place))
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        place.rmdir()
    return True


def _expect_degraded(scene: Scene, poison: int, source: str) -> None:
    """Exit code 3, a dead letter that names the document, and everything done that does not need it."""
    ended = scene.finish()
    assert ended.code == 3, f"expected a degraded end, got {ended}"
    shard = poison // DOCUMENTS_PER_SHARD
    dead = {letter["task"]: letter for letter in ended.dead}
    key = f"capture-{source}-{shard:05d}"
    assert set(dead) == {key}, f"dead letters of other tasks: {sorted(dead)}"
    assert f"d{poison}" in dead[key]["documents"], f"the dead letter does not name d{poison}: {dead[key]}"
    scene.notes.append(str(dead[key]))
    expected = {key, key.replace("capture", "align"), f"fuse-{shard:05d}"}
    assert set(scene.missing()) == expected, f"not done: {sorted(scene.missing())}, expected {sorted(expected)}"


def _poisoned(scene: Scene) -> tuple[int, str]:
    return scene.chance.randrange(scene.rig.shards * DOCUMENTS_PER_SHARD), scene.chance.choice(
        sorted(scene.rig.sources)
    )


@fault("poison-document", "a document that a source fails at, every time; then it is healed")
def poison_document(scene: Scene) -> None:
    poison, name = _poisoned(scene)
    source = scene.rig.sources[name]
    source.order(Orders(poison=f"d{poison}", poison_fails=True))
    scene.begin()
    _expect_degraded(scene, poison, name)
    source.order(Orders())
    scene.begin()
    scene.expect_done(scene.finish())


@fault("poison-process", "a document whose process is killed, every time; then it is healed")
def poison_process(scene: Scene) -> None:
    poison, name = _poisoned(scene)
    source, key = scene.rig.sources[name], f"capture-{name}-{poison // DOCUMENTS_PER_SHARD:05d}"
    source.order(Orders(poison=f"d{poison}", poison_pause_s=3.0))
    met, kills = source.poison_met(), 0
    coordinator = scene.begin()
    until = time.monotonic() + RUN_TIMEOUT_S
    while coordinator.is_running and time.monotonic() < until:
        if source.poison_met() > met:
            met = source.poison_met()
            kills += _kill_all_at(scene, key)
        time.sleep(POLL_S)
    scene.notes.append(f"{kills} processes killed")
    assert kills >= 3
    _expect_degraded(scene, poison, name)
    source.order(Orders())
    scene.begin()
    scene.expect_done(scene.finish())


def _kill_all_at(scene: Scene, key: str) -> int:
    """kill -9 of each process that is at this task; how many there were."""
    pids = [work.pid for work in scene.at_work() if work.key == key and is_alive(work.pid)]
    for pid in pids:
        send(pid, signal.SIGKILL)
    return len(pids)

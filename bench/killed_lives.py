"""Lives of a trainer that is killed: processes forked from one that has imported, and the moments they die at."""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import numpy as np
import torch

from fusery.config.sections import TrainingSpec
from fusery.hops.store.store import Store
from fusery.registry.follow import Followed
from fusery.runtime.errors import FuseryError
from fusery.trainer import loop
from fusery.trainer.documents import Stored
from fusery.trainer.job import TrainJob, train
from support.models import pico_models, training_data

# What a first use would import, once here and not in every life.
for name in ("llama", "gpt2", "gpt_neox", "gemma3", "qwen2", "mpt"):
    importlib.import_module(f"transformers.models.{name}.modeling_{name}")
for name in ("pyarrow.dataset", "fsspec.implementations.chained", "peft.tuners.lora", "torch.distributed.fsdp"):
    importlib.import_module(name)

KINDS = ("step", "write", "term-kill", "start", "step", "write", "term", "term-kill")
FOLLOWED_KINDS = ("import", "follow", "follower")
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"}
LIFE_S = 240.0
OUTSIDE = ("lease.json", "tracking", "metrics.jsonl")
"""Files that other threads and processes touch, too."""


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained; `changes` are fields of TrainingSpec. A disturbed one takes `pause_s` more for every step.

    `beside`: checkpoints are written while the training goes on, as with an accelerator.
    """

    number: int
    architecture: str
    changes: dict[str, Any] = field(default_factory=dict)
    pause_s: float = 0.0
    is_followed: bool = False
    beside: bool = False


TRAININGS = (
    Training(0, "gpt2"),
    Training(1, "qwen2", {"micro_batch_sequences": 2}),
    Training(2, "llama", {"lora_rank": 4}),
    Training(3, "gemma3", {"evaluate_every_steps": 3, "keep_checkpoints": 1}),
    Training(4, "gpt_neox", {"gradient_checkpointing": True}),
    Training(5, "mpt", {"checkpoint_every_steps": 1}),
    Training(6, "gpt2", {"dtype": "bfloat16"}, beside=True),
    Training(7, "llama", {"clm_weight": 0.1, "checkpoint_every_steps": 1}, beside=True),
    Training(8, "llama", {"epochs": 90}, pause_s=0.3, is_followed=True),
    Training(9, "gpt2", {"epochs": 90}, pause_s=0.3, is_followed=True),
)


@dataclass(frozen=True, slots=True)
class Kill:
    """One that was drawn: after so many steps (`step`), at which file operation, or after how many seconds."""

    kind: str
    step: int
    operation: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Life:
    """How one process ended: `code` as waitpid says it; steps in the metrics, and in the newest checkpoint, then."""

    kill: Kill | None
    code: int
    steps: int
    checkpoint: int


def forked(work: Callable[[], int], log: Path) -> int:
    """The process that does `work`; its exit code is what that returns, its output goes to `log`."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(number, 1)
        os.dup2(number, 2)
        code = work()
    except FuseryError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def waited(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def prepare(training: Training, folder: Path) -> int:
    """Target, fused shards and partitions in `folder`."""
    torch.set_num_threads(1)
    kind = pico_models._USUAL_TOKENIZER.get(training.architecture, "byte_level")
    pico_models.build_model(folder / "target", training.architecture, kind)
    documents = training_data.pico_documents(kind, 24)
    training_data.publish_fused(Store(str(folder / "store")), documents, 5, training_data.TARGET)
    partitions = training_data.pico_partitions(pico_models.pico_tokenizer(kind).get_vocab_size())
    held_out = [document.token_ids_N for document in training_data.pico_documents(kind, 6, seed=9)]
    np.savez(folder / "arrays.npz", *partitions, **{f"held_out_{i}": ids for i, ids in enumerate(held_out)})
    return 0


def job_of(training: Training, folder: Path, output: Path) -> TrainJob:
    arrays = np.load(folder / "arrays.npz", allow_pickle=False)
    store = Store(str(folder / "store"))
    names = sorted(store.listed("fused/test"))
    usual = {"sequence_length": 48, "batch_sequences": 4, "learning_rate": 3e-3, "clm_weight": 0.5, "epochs": 10}
    followed = Followed(
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        experiment="kills",
        run_name=output.name,
        training_id=output.name,
        artifact_folder=str(folder / "artifacts"),
    )
    return TrainJob(
        target=str(folder / "target"),
        output=output,
        documents=Stored(store, names, {"target": training_data.TARGET}),
        partitions=[arrays[name] for name in sorted(arrays) if name.startswith("arr_")],
        training=TrainingSpec(**({**usual, "checkpoint_every_steps": 3} | training.changes)),
        config_digest="0" * 64,
        threads=1,
        held_out=[arrays[name] for name in sorted(arrays) if name.startswith("held_out_")],
        tracking=followed if training.is_followed and output.name == "disturbed" else None,
        on_step=lambda _: time.sleep(training.pause_s if output.name == "disturbed" else 0.0),
    )


def live(training: Training, folder: Path, output: Path, kill: Kill | None) -> int:
    """One life of a trainer, which kills itself where `kill` names a file operation."""
    if kill is not None and kill.kind in ("start", "write"):
        sys.addaudithook(Executioner(output, kill))
    if training.beside:
        loop.writes_beside = lambda _: True
    train(job_of(training, folder, output))
    return 0


class Executioner:
    """An audit hook that counts the operations on files in the output folder, and kills at the one that was drawn."""

    def __init__(self, output: Path, kill: Kill) -> None:
        self._output, self._kill = str(output), kill
        self._left = kill.operation
        self._counts = kill.kind == "start"

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        if not isinstance(path, str) or not path.startswith(self._output) or Path(path).name.startswith(OUTSIDE):
            return
        if event == "os.mkdir" and path.endswith(".tmp") and "step-" in path:
            self._counts = self._counts or int(Path(path).stem[5:]) >= self._kill.step
        if self._counts:
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1


def steps_in(output: Path) -> int:
    """Whole lines of the metrics."""
    path = output / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def newest_checkpoint(output: Path) -> int:
    return max((int(p.name[5:]) for p in output.glob("checkpoints/step-*") if p.suffix != ".tmp"), default=0)


def draw(chance: random.Random, training: Training, life: int, done: int) -> Kill:
    kinds = FOLLOWED_KINDS if training.is_followed else KINDS
    kind = kinds[(training.number + life) % len(kinds)]
    seconds = {"step": 0.03, "term-kill": 0.05, "import": 3.0, "follow": 2.0, "follower": 1.0}.get(kind, 0.0)
    return Kill(kind, done + chance.randint(1, 6), chance.randrange(18), chance.random() * seconds)


def carry_out(pid: int, kill: Kill, output: Path) -> int:
    """Kills the process `pid` from outside, where `kill` is of that sort; its exit code."""
    if kill.kind not in ("start", "write") and is_reached(pid, kill, output):
        if kill.kind == "follower":
            for child in followers(pid):
                os.kill(child, signal.SIGKILL)
        if kill.kind in ("term", "term-kill"):
            os.kill(pid, signal.SIGTERM)
        if kill.kind != "term":
            time.sleep(kill.seconds)
            os.kill(pid, signal.SIGKILL)
    return waited(pid)


def is_reached(pid: int, kill: Kill, output: Path) -> bool:
    """Waits for the moment; False if the process ended before."""
    sent, limit = sent_steps(output), time.monotonic() + LIFE_S
    while time.monotonic() < limit and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if steps_in(output) >= kill.step and (kill.kind not in ("follow", "follower") or sent_steps(output) > sent):
            return True
        time.sleep(0.002)
    return False


def sent_steps(output: Path) -> int:
    """The last step that MLflow got, by what the follower noted."""
    try:
        return int(json.loads((output / "tracking.json").read_text())["step"])
    except (FileNotFoundError, ValueError):
        return 0


def followers(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives_of(training: Training, folder: Path, kills: int, seed: int) -> Iterator[Life]:
    """Kills the training until it was killed so often, or is done; the last life is left alone.

    A moment is drawn after the steps that were done before the last kill, so every life does something new.
    """
    output = folder / "disturbed"
    done = False
    for number in range(kills + 1):
        chance = random.Random(f"{seed}/{training.number}/{number}")
        is_last = done or number == kills
        kill = None if is_last else draw(chance, training, number, steps_in(output))
        pid = forked(lambda kill=kill: live(training, folder, output, kill), folder / "log")  # type: ignore[misc]
        code = waited(pid) if kill is None else carry_out(pid, kill, output)
        yield Life(kill, code, steps_in(output), newest_checkpoint(output))
        if kill is None:
            return
        done = code == 0

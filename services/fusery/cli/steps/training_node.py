"""A node of a training with several processes: torchrun with exit codes that a Job can read, and a meeting that ends.

`python -m fusery.cli.steps.training_node OPTIONS -m fusery train FILE.yaml …`, OPTIONS those of torchrun.

torchrun itself ends with 1 whatever happened, and a Job decides by the code whether another pod may do better: here it
is that of the process that failed first. A node that was replaced when the others had finished would wait in vain, for
nodes that are done do not come back: the result is looked for before the nodes meet, and while they do. A signal that
comes then ends the process at once: torchrun answers none before its processes run, and the first process of a
container is not ended by a signal without a handler.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from fusery.runtime.errors import FuseryError, Interrupted
from fusery.runtime.settings import set_variables
from fusery.runtime.stop_signals import STOP_SIGNALS, start_as_usual, taken

log = logging.getLogger(__name__)

_BY_SIGNAL = 128
_STOPS = (Interrupted.exit_code, _BY_SIGNAL + signal.SIGTERM)
_LOOK_S, _SAY_S = 2.0, 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or the exit code of the first process that failed; 128 + the signal that ended it or this process."""
    # The form of text logs, unless the calling process has set up its own.
    logging.basicConfig(level="INFO", format="%(asctime)s node %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    start_as_usual()
    with _stops() as woken:
        # It takes seconds to import.
        from torch.distributed.run import parse_args

        given = parse_args(arguments)  # type: ignore[no-untyped-call]
        try:
            result = _result_of(given)
        except FuseryError as error:
            log.error("%s", error)
            return error.exit_code
        if result is not None and result.exists():
            return _finished(given, result)
        threading.Thread(target=_watch, args=(given, result, woken), daemon=True).start()
        return _run(given)


def _run(given: argparse.Namespace) -> int:
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import run

    where = f"{given.master_addr}:{given.master_port}"
    if given.node_rank == 0:
        # The others meet here. The way to oneself over a Service is one that not every network has.
        given.master_addr = "127.0.0.1"
    try:
        run(given)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        log.error("process %d ended first, with %d; its own lines say why", rank, first.exitcode)
        return _code_of(first.exitcode, [failure.exitcode for failure in error.failures.values()])
    except SignalException as stop:
        return _BY_SIGNAL + stop.sigval
    except torch.distributed.DistError as error:
        reason = next(iter(str(error).splitlines()), "")
        log.error("the %s nodes of this training have not met at %s: %s", given.nnodes, where, reason)
        return FuseryError.exit_code
    return 0


def _code_of(first: int, all_codes: Sequence[int]) -> int:
    """The exit code of processes that ended in the same moment, `first` the one that torchrun takes for the first.

    One that was told to stop makes the others lose their group, and torchrun tells times by whole seconds.
    """
    codes = [code if code >= 0 else _BY_SIGNAL - code for code in (first, *all_codes)]
    return next((code for code in codes if code in _STOPS), codes[0])


def _result_of(given: argparse.Namespace) -> Path | None:
    """Where the training leaves its result; None: the processes are no training of a run.

    The run is opened here, once for all processes, which get the training as a file of this node.

    Raises:
        FuseryError: the run can't be read, or has no plan yet.
    """
    command: list[str] = list(given.training_script_args)
    if not given.module or given.training_script != "fusery" or command[:1] != ["train"]:
        return None
    from fusery.cli.steps import train
    from fusery.run.steps.training_file import read_training
    from fusery.run.steps.trainings import asked_training

    parser = argparse.ArgumentParser("fusery train")
    train.set_up(parser)
    asked = parser.parse_args(command[1:])
    if asked.file.suffix == ".json":
        return read_training(asked.file).output / "result.json"
    training = asked_training(asked.file, vars(asked))
    if not training.is_done:
        file = training.run.folder / "jobs" / f"{training.folder.name}-node-{given.node_rank}.json"
        set_variables(**training.write(file))
        threads = [] if asked.threads is None else ["--threads", str(asked.threads)]
        given.training_script_args = ["train", str(file), *threads]
    return training.folder / "result.json"


def _finished(given: argparse.Namespace, result: Path) -> int:
    """The exit code of one process alone, which finds the result and tells MLflow what it has not heard."""
    log.info("this training is done already, nobody is waited for: %s", result)
    return subprocess.call([sys.executable, "-m", given.training_script, *given.training_script_args])


def _watch(given: argparse.Namespace, result: Path | None, woken: int) -> None:
    """Returns when the processes run; ends this process before, at a signal or at the result of the other nodes."""
    began = said_at = time.monotonic()
    while not _has_children():
        if select.select([woken], [], [], _LOOK_S)[0]:
            number = os.read(woken, 1)
            if not number:
                # The main thread is done.
                break
            if number[0] in STOP_SIGNALS:
                _end_at_once(number[0], None)
        if result is not None and result.exists():
            os._exit(_finished(given, result))
        now = time.monotonic()
        if given.nnodes not in ("1", "1:1") and now - said_at >= (_SAY_S if said_at > began else 10):
            said_at = now
            log.info("%s, for %d s now; kubectl get pods says how they are", _waited_for(given), now - began)
    os.close(woken)


def _waited_for(given: argparse.Namespace) -> str:
    if given.node_rank == 0:
        return f"node 0 waits until all {given.nnodes} nodes of the training have reached its port {given.master_port}"
    where = f"{given.master_addr}:{given.master_port}"
    return f"node {given.node_rank} of {given.nnodes} waits for node 0 at {where}, and for the others"


def _has_children() -> bool:
    import psutil

    return bool(psutil.Process().children())


@contextmanager
def _stops() -> Iterator[int]:
    """Ends this process at once at a stop signal, until torchrun takes them; a file that says which one came.

    A thread reads it: no handler runs while the main thread waits in compiled code.
    """
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    before = signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    try:
        with taken(_end_at_once):
            yield woken
    finally:
        signal.set_wakeup_fd(before)
        os.close(waking)


def _end_at_once(number: int, _frame: FrameType | None) -> Any:
    print(f"stopped by signal {number} before the training began", file=sys.stderr, flush=True)
    os._exit(_BY_SIGNAL + number)


if __name__ == "__main__":
    sys.exit(main())

"""The processes of a training as one group, however started: torchrun, accelerate launch, a job of a cluster, MPI.

Accelerate forms no group of CPU processes unless it is told that the CPU is meant: each would train by itself. So the
device is decided here, and what came out is compared with what the launcher said.
"""

from __future__ import annotations

import logging
import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, get_int_from_env, parse_flag_from_env

from fusery.runtime.errors import InvalidInput, Unavailable

log = logging.getLogger(__name__)

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""How launchers say the number of processes; accelerate reads the same ones, in this order."""
_KNOWN = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU, DistributedType.FSDP)
_HOW = "start several processes with torchrun or accelerate launch"


def form(threads: int | None = None) -> Accelerator:
    """This process, or the group that its launcher started: data parallel or split by FSDP 2, on GPUs or on CPUs.

    `threads`: of this process; None leaves it to torch. Precision is the run's own affair (autocast), not of
    accelerate's files.

    Raises:
        InvalidInput: accelerate is configured for something else, or what the launcher says makes no group.
        Unavailable: the other processes are not reached.
    """
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise InvalidInput(
            "accelerate's configuration asks for DeepSpeed (ACCELERATE_USE_DEEPSPEED); the trainer splits weights with "
            "FSDP 2: set ACCELERATE_USE_FSDP=true and FSDP_VERSION=2, as `accelerate config` writes them"
        )
    told = told_processes()
    _check_launched()
    on_cpu = uses_cpu(told)
    if not on_cpu:
        _check_gpus()
    if threads is not None:
        # Else accelerate counts the machine's cores, of which a container may use a few.
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    accelerator = _accelerator(told, on_cpu=on_cpu)
    _check(accelerator, told)
    if told > 1:
        log.info("process %d of %d, on %s", accelerator.process_index + 1, told, accelerator.device)
    return accelerator


def told_processes() -> int:
    """How many processes the launcher says that the training has; 1 without a launcher."""
    found: int = get_int_from_env(_SIZES, 1)
    return max(1, found)


def uses_cpu(processes: int) -> bool:
    """Whether to train on the CPU: it is asked for, or several processes find no device that could form a group.

    A single process takes what accelerate finds, Apple's GPU too.
    """
    if parse_flag_from_env("ACCELERATE_USE_CPU") or os.environ.get("ACCELERATE_TORCH_DEVICE", "").startswith("cpu"):
        return True
    device = torch.accelerator.current_accelerator(check_available=True)
    return processes > 1 and (device is None or device.type == "mps")


def _accelerator(told: int, *, on_cpu: bool) -> Accelerator:
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    if told > 1:
        log.info("waiting for all %d processes at %s", told, where)
    try:
        return Accelerator(mixed_precision="no", cpu=on_cpu)
    except ValueError as error:
        # What torch and accelerate say of a variable that is missing.
        reason = next(iter(str(error).splitlines()), "")
        raise InvalidInput(f"the launcher's environment makes no group of {told} processes: {reason}; {_HOW}") from None
    except torch.distributed.DistError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise Unavailable(
            f"the {told} processes of the training have not met at {where} (MASTER_ADDR, MASTER_PORT): {reason}; look "
            "whether all of them were started and reach that address"
        ) from None


def _check(accelerator: Accelerator, told: int) -> None:
    if accelerator.distributed_type not in _KNOWN:
        raise InvalidInput(
            f"accelerate is configured for {accelerator.distributed_type}; the trainer runs as one process, or with "
            "torchrun or accelerate launch: data parallel, or FSDP 2"
        )
    if accelerator.num_processes != told:
        names = ", ".join(f"{name}={os.environ[name]}" for name in _SIZES if name in os.environ)
        raise InvalidInput(
            f"the launcher says {told} processes ({names or 'no WORLD_SIZE'}), this one is in a group of "
            f"{accelerator.num_processes}, and each would train by itself; {_HOW}, or unset these variables for one "
            "process alone"
        )


def _check_launched() -> None:
    """Returns unless accelerate launch was asked for several processes and started one, as it does without GPUs."""
    started_alone = not any(name in os.environ for name in _SIZES)
    # It says where they would meet, and not how many they are.
    if started_alone and "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ:
        raise InvalidInput(
            "accelerate launch was asked for several processes and started this one alone: without a GPU it starts "
            "others by MPI only; use torchrun --nproc-per-node NUMBER -m fusery train FILE.yaml, or --num_processes 1"
        )


def _check_gpus() -> None:
    """Returns if every process of this machine has a GPU of its own; two on one form no group."""
    here = get_int_from_env(["LOCAL_WORLD_SIZE"], 1)
    if torch.cuda.is_available() and here > torch.cuda.device_count():
        raise InvalidInput(
            f"{here} processes on this machine (LOCAL_WORLD_SIZE), it has {torch.cuda.device_count()} GPUs; start as "
            "many processes as GPUs, or set ACCELERATE_USE_CPU=true to train on the CPU"
        )

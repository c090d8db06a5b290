"""Weights split over processes (PyTorch's FSDP 2), as accelerate's configuration asks for it.

Accelerate's own wrapper takes model and optimizer together and refuses CPU; `fully_shard` below it needs neither, so it
is called here with the settings of accelerate's plugin. Checkpoints and the exported model hold whole tensors: one
written by eight processes is resumed by one, or by four. The price: one process holds the whole checkpoint in its
memory while it writes. PyTorch's own distributed checkpoints would not, but keep a pickle beside the tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from fusery.errors import InvalidInput
from fusery.run_sections import TrainingSpec


def is_wanted(accelerator: Accelerator) -> bool:
    """Whether accelerate's configuration asks for FSDP, and there are processes to split over."""
    return accelerator.num_processes > 1 and bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def check(accelerator: Accelerator, spec: TrainingSpec) -> None:
    """Returns if the trainer can do what accelerate's configuration asks for.

    Raises:
        InvalidInput: FSDP 1, parameters on the CPU between steps, or LoRA together with FSDP.
    """
    if not is_wanted(accelerator):
        return
    plugin: Any = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2 or isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise InvalidInput(
            f"accelerate's configuration: fsdp_version {plugin.fsdp_version}, cpu_offload {plugin.cpu_offload}; the "
            "trainer knows fsdp_version 2 (FSDP_VERSION=2) without offload"
        )
    if spec.lora_rank is not None:
        raise InvalidInput(
            "training.lora_rank: not together with FSDP; adapters are small, use torchrun without ACCELERATE_USE_FSDP"
        )


def shard(module: torch.nn.Module, model: PreTrainedModel, accelerator: Accelerator) -> None:
    """Splits the parameters of `module`, one layer of `model` at a time, over all processes; in place."""
    plugin: Any = FullyShardedDataParallelPlugin()
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    names = set(plugin.transformer_cls_names_to_wrap or model._no_split_modules or ())
    for layer in model.modules():
        if type(layer).__name__ in names:
            fully_shard(layer, mesh=mesh, reshard_after_forward=plugin.reshard_after_forward)
    fully_shard(module, mesh=mesh, reshard_after_forward=plugin.reshard_after_forward)


def set_gradient_sync(module: torch.nn.Module, *, is_last: bool) -> None:
    """Whether the next backward pass adds the gradients of all processes together."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(is_last)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with all its parts; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(content: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Whole `content` on the device of `tensor`, split as it is."""
    content = content.to(tensor.device)
    if isinstance(tensor, DTensor):
        return distribute_tensor(content, tensor.device_mesh, tensor.placements)
    return content


def whole_state(model: torch.nn.Module, *, keeps: bool = True) -> dict[str, torch.Tensor]:
    """The model's state on the CPU with whole tensors; a tied one is one tensor under both names.

    Without `keeps` nothing: the process only gives its parts.
    """
    if not keeps:
        for parameter in model.parameters():
            whole(parameter.detach())
        return {}
    by_parameter = {id(p): whole(p.detach()).cpu() for p in model.parameters()}
    tied = {name: by_parameter[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    return {name: tied[name] if name in tied else whole(value).cpu() for name, value in model.state_dict().items()}

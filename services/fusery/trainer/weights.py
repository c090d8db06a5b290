"""Which weights are trained, where they lie, and how far a step moves them: LoRA, FSDP 2, AdamW and its learning rate.

LoRA trains a small pair of matrices beside every linear layer, and adds it to the weights at the end. A checkpoint then
holds the pairs and their moments alone; the exported model is an ordinary one, which needs no peft. The extra `lora`
installs it.

PyTorch's FSDP 2 splits weights over processes, as accelerate's configuration asks for it. Accelerate's own wrapper
takes model and optimizer together and refuses CPU; `fully_shard` below it needs neither, so it is called here with the
settings of accelerate's plugin. Checkpoints and the exported model hold whole tensors: one written by eight processes
is resumed by one, or by four. The price: one process holds the whole checkpoint in memory while it writes. PyTorch's
own distributed checkpoints would not, but keep a pickle beside the tensors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from fusery.config.sections import TrainingSpec
from fusery.runtime.errors import InvalidInput, how_to_install


def learning_rate(spec: TrainingSpec, peak: float, step: int, steps: int) -> float:
    """Linear warm-up to `peak`, then cosine to min_learning_rate_ratio · peak; `step` counts from 0."""
    warmup = math.ceil(spec.warmup_ratio * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    floor = spec.min_learning_rate_ratio
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)


def peak_learning_rate(spec: TrainingSpec, clm_only: bool) -> float:
    """The CLM baseline may have a learning rate of its own, so that it is tuned as carefully."""
    return spec.clm_learning_rate if clm_only and spec.clm_learning_rate is not None else spec.learning_rate


def optimizer_for(parameters: Iterable[torch.nn.Parameter], spec: TrainingSpec) -> torch.optim.AdamW:
    """AdamW; no weight decay on vectors (norms, biases), where it would pull towards a meaningless zero."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(spec.beta1, spec.beta2))


def add_adapters(model: PreTrainedModel, rank: int, alpha: int, seed: int) -> Any:
    """Freezes the model and puts adapters into its linear layers, but the head; what `merge_adapters` takes.

    Raises:
        InvalidInput: peft is not installed.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ModuleNotFoundError as error:
        raise InvalidInput(f"training.lora_rank needs the package peft: {how_to_install('lora')}") from error
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # GPT-2 keeps its weights the other way round; peft sees that and says so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear")
        return LoraModel(model, {"default": config}, "default")


def merge_adapters(adapted: Any) -> None:
    """Adds the adapters to the weights of the model that `add_adapters` was given, and takes them out of it."""
    adapted.merge_and_unload()


def is_wanted(accelerator: Accelerator) -> bool:
    """Whether accelerate's configuration asks for FSDP, and there are processes to split over."""
    return accelerator.num_processes > 1 and bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def check_sharding(accelerator: Accelerator, spec: TrainingSpec) -> None:
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

"""LoRA: a small pair of matrices beside every linear layer is trained, and added to the weights at the end.

A checkpoint then holds the pairs and their moments alone. The exported model is an ordinary one: whoever loads it
needs no peft. The extra `lora` installs it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from transformers import PreTrainedModel

from fusery.errors import InvalidInput, how_to_install


def add(model: PreTrainedModel, rank: int, alpha: int, seed: int) -> Any:
    """Freezes the model and puts adapters into its linear layers, but the head; what `merge` takes.

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


def merge(adapted: Any) -> None:
    """Adds the adapters to the weights of the model that `add` was given, and takes them out of it."""
    adapted.merge_and_unload()

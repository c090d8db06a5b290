"""Weights, loaded from safetensors and JSON alone.

transformers fills weights that a checkpoint lacks with random numbers and a warning. A source that answers
from random weights poisons a run without a sign, so here that is an error.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from fusery.core.rules import Dtype
from fusery.models.checkpoint import local_folder
from fusery.models.inspect import known_architecture
from fusery.models.model_files import read_config, weight_files
from fusery.runtime.errors import ModelError

_LOADING_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError)

_PLACE_KEYS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Config keys that say where a checkpoint came from or how it is loaded, not what it computes."""


def _first_line(error: Exception) -> str:
    """Without the advice to trust remote code that transformers adds."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def load_model(
    model: str,
    revision: str | None = None,
    dtype: Dtype = Dtype.FLOAT32,
    attention: str | None = None,
    device: str | None = "cpu",
) -> PreTrainedModel:
    """The causal LM in evaluation mode on `device`, weights in `dtype` unless the checkpoint is quantised.

    `attention`: transformers' name of an implementation. `device`: as torch names it, `auto`: over all GPUs, for a
    model that one does not hold (accelerate places it), None: a GPU if there is one.

    Raises:
        ModelError: the checkpoint can't be loaded, or lacks weights that the architecture has.
    """
    folder = local_folder(model, revision)
    known_architecture(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    extra: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    is_placed = device == "auto" or "quantization_config" in read_config(folder)
    if is_placed:
        # Quantised weights can't be moved once they are loaded.
        extra["device_map"] = "auto" if device == "auto" else {"": device}
    # Its return annotation knows nothing of output_loading_info.
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        loaded, report = from_pretrained(
            folder,
            dtype=getattr(torch, dtype.value),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **extra,
        )
    except _LOADING_ERRORS as error:
        raise ModelError(f"model {model}: can't be loaded: {_first_line(error)}") from error
    _refuse_random_weights(model, report)
    whole: PreTrainedModel = loaded.train(False)
    try:
        return whole if is_placed else whole.to(torch.device(device))  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"model {model}: can't be put on device {device!r}: {_first_line(error)}") from error


def _refuse_random_weights(model: str, report: dict[str, Any]) -> None:
    absent = sorted(str(item) for key in ("missing_keys", "mismatched_keys") for item in report.get(key) or ())
    if absent:
        raise ModelError(
            f"model {model}: {len(absent)} weights are missing or have another shape, such as {', '.join(absent[:3])}; "
            "transformers would make them up at random; use a whole checkpoint of this architecture"
        )


def weights_fingerprint(model: str, revision: str | None = None, dtype: Dtype = Dtype.FLOAT32) -> str:
    """SHA-256 (hex) of what the model computes with: weight files' bytes, config and `dtype`. Reads them once."""
    folder = local_folder(model, revision)
    config = {key: value for key, value in read_config(folder).items() if key not in _PLACE_KEYS}
    content = {"config": config, "dtype": dtype.value, "files": [_file_digest(path) for path in weight_files(folder)]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The second look at a checkpoint: what transformers says of its architecture, and its tokenizer. No weights yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.core.tokens import ByteTokenizer
from fusery.models.checkpoint import context_length, described_folder
from fusery.models.model_files import read_config
from fusery.models.tokenizer import read_tokenizer
from fusery.runtime.errors import ModelError


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a run must know of a model before it loads the weights.

    `architecture` is the class that transformers will build; `vocabulary_size` counts the model's logits,
    which may be more than the tokenizer's tokens; `context_length` is in tokens.
    """

    folder: Path
    architecture: str
    model_type: str
    vocabulary_size: int
    context_length: int
    tokenizer: ByteTokenizer


def inspect_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Architecture, sizes and tokenizer of `model`; its weights are not downloaded. Imports transformers (seconds).

    Raises:
        ModelError: as `check_checkpoint`; or transformers has no causal LM of that type; or no fast tokenizer.
    """
    folder = described_folder(model, revision)
    config, architecture = known_architecture(folder)
    text = config.get_text_config(decoder=True)
    return Checkpoint(
        folder=folder,
        architecture=architecture,
        model_type=config.model_type,
        vocabulary_size=int(text.vocab_size),
        context_length=context_length(text),
        tokenizer=read_tokenizer(folder, model).of_model(int(text.vocab_size)),
    )


def known_architecture(folder: Path) -> tuple[Any, str]:
    """The checkpoint's transformers config, and the name of the causal LM class that belongs to it.

    Raises:
        ModelError: transformers itself has no such class; code in the checkpoint is never run.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    fields = read_config(folder)
    model_type = fields["model_type"]
    if model_type not in CONFIG_MAPPING:
        remote = " (it brings code of its own, which is never run)" if "auto_map" in fields else ""
        raise ModelError(
            f"model {folder}: transformers has no architecture {model_type!r}{remote}; use a checkpoint of a known one"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelError(f"model {folder}: transformers refuses its config.json: {error}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"model {folder}: {model_type!r} is no causal language model; fusery fuses causal ones")
    known: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return config, str(known.__name__)

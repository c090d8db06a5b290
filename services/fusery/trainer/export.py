"""The trained model as a plain Hugging Face folder: any tool of the field loads it, none needs fusery."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from fusery.models.checkpoint import local_folder
from fusery.registry.model_card import TrainedModel, trained_card
from fusery.trainer.checkpoint import file_digest, publish

_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "tekken.json",
    "chat_template*",
)


def export(model: PreTrainedModel, state: Mapping[str, Tensor], trained: TrainedModel, folder: Path) -> str:
    """SHA-256 (hex) over the weight files of the model with weights `state`, whole in `folder` or not there at all.

    The tokenizer's files are copied, not saved again: another version of a library would write other bytes.
    """
    draft = folder.with_suffix(".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft, state_dict=dict(state))
    source = local_folder(trained.target, trained.revision)
    for path in sorted({path for pattern in _TOKENIZER_FILES for path in source.glob(pattern) if path.is_file()}):
        shutil.copyfile(path, draft / path.name)
    (draft / "README.md").write_text(trained_card(trained), encoding="utf-8")
    digest = hashlib.sha256()
    for path in sorted(draft.glob("*.safetensors")):
        digest.update(file_digest(path).encode())
    publish(draft, folder)
    return digest.hexdigest()

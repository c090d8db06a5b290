"""The trained model as a plain Hugging Face folder: any tool of the field loads it, none needs fusery."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from fusery.models.checkpoint import local_folder
from fusery.models.model_files import tokenizer_files, weight_files
from fusery.models.tokenizer import settle
from fusery.registry.model_card import TrainedModel, trained_card
from fusery.trainer.checkpoint import file_digest, publish

log = logging.getLogger(__name__)


def export(model: PreTrainedModel, state: Mapping[str, Tensor], trained: TrainedModel, folder: Path) -> str:
    """SHA-256 (hex) over the weight files of the model with weights `state`, whole in `folder` or not there at all.

    The tokenizer's files are copied, not saved again: another version of a library would write other bytes.
    """
    draft = folder.with_suffix(".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft, state_dict=dict(state))
    source = local_folder(trained.target, trained.revision)
    for path in (*tokenizer_files(source), *source.glob("chat_template*.jinja"), *source.glob("chat_template*.json")):
        shutil.copyfile(path, draft / path.name)
    if difference := settle(draft, trained.target):
        log.warning(
            "%s: its tokenizer class reads %s; the model is written with the class that takes the file as it stands",
            *(trained.target, difference),
        )
    (draft / "README.md").write_text(trained_card(trained), encoding="utf-8")
    digest = hashlib.sha256()
    for path in weight_files(draft):
        digest.update(file_digest(path).encode())
    publish(draft, folder)
    return digest.hexdigest()

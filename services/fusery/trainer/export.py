"""The trained model as a plain Hugging Face folder: any tool of the field loads it, none needs fusery."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from fusery.models.checkpoint import local_folder
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


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the folder's README.md says."""

    target: str
    revision: str | None
    clm_only: bool
    clm_weight: float
    tail: str
    tokens: int
    steps: int

    def text(self) -> str:
        name = self.target.rstrip("/").rsplit("/", 1)[-1]
        at = f" at revision `{self.revision}`" if self.revision else ""
        how = (
            "continual training with the causal-LM loss alone (the baseline of a fusion)"
            if self.clm_only
            else f"knowledge fusion: {self.clm_weight:g} · CLM + {1 - self.clm_weight:g} · fusion, tail `{self.tail}`"
        )
        return (
            f"---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n# {name}, trained by fusery\n\n"
            f"Target: `{name}`{at}. Method: {how} (FuseLLM, arXiv 2401.10491). {self.tokens:,} tokens in "
            f"{self.steps:,} steps.\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            "model = AutoModelForCausalLM.from_pretrained(folder)\ntokenizer = AutoTokenizer.from_pretrained(folder)\n"
            "```\n\nThe licence of the target applies; so may those of the sources that it learned from.\n"
        )


def export(model: PreTrainedModel, state: Mapping[str, Tensor], card: ModelCard, folder: Path) -> str:
    """SHA-256 (hex) over the weight files of the model with weights `state`, whole in `folder` or not there at all.

    The tokenizer's files are copied, not saved again: another version of a library would write other bytes.
    """
    draft = folder.with_suffix(".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft, state_dict=dict(state))
    source = local_folder(card.target, card.revision)
    for path in sorted({path for pattern in _TOKENIZER_FILES for path in source.glob(pattern) if path.is_file()}):
        shutil.copyfile(path, draft / path.name)
    (draft / "README.md").write_text(card.text(), encoding="utf-8")
    digest = hashlib.sha256()
    for path in sorted(draft.glob("*.safetensors")):
        digest.update(file_digest(path).encode())
    publish(draft, folder)
    return digest.hexdigest()

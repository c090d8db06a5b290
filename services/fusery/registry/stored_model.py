"""Makes the folder that MLflow keeps of a model a plain Hugging Face folder too.

MLflow puts weights and tokenizer into `model/` and lets only its own loader see that. A few small files at the top,
with an index that says where the weights lie, let transformers' `from_pretrained` load the downloaded folder as it
is. The price is a second copy of the tokenizer's files; the weights are there once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fusery.models.model_files import weight_files
from fusery.runtime.text.json import parse_json, read_json_object

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

Number = TypeVar("Number", bound=float | bool)

_GENERATION: dict[str, tuple[str, float | bool]] = {
    "max_new_tokens": ("integer", 128),
    "do_sample": ("boolean", False),
    "temperature": ("double", 1.0),
    "top_p": ("double", 1.0),
    "top_k": ("integer", 50),
    "repetition_penalty": ("double", 1.0),
}
"""Name → MLflow's type and the default of transformers, but for the number of tokens."""

_WEIGHTS = "model"
_INDEX = "model.safetensors.index.json"
_TOP = ("*.json", "*.jinja", "*.txt", "*.model")


def write_top_files(model_folder: Path, top: Path, card: str, licence: str) -> None:
    """Writes into `top` what makes it loadable beside a folder `model/` that is a copy of `model_folder`."""
    for path in sorted({path for pattern in _TOP for path in model_folder.glob(pattern)}):
        if path.name != _INDEX:
            shutil.copyfile(path, top / path.name)
    placed = dict(_tensors(model_folder))
    size = sum(path.stat().st_size for path in weight_files(model_folder))
    index = {"metadata": {"total_size": size}, "weight_map": placed}
    (top / _INDEX).write_text(json.dumps(index, indent=1, sort_keys=True), encoding="utf-8")
    (top / "README.md").write_text(card, encoding="utf-8")
    (top / "model_card.md").write_text(card.split("---\n", 2)[-1].lstrip(), encoding="utf-8")
    # The trainer's short card lies beside the weights.
    (top / _WEIGHTS).mkdir()
    (top / _WEIGHTS / "README.md").write_text(card, encoding="utf-8")
    # In place of MLflow's own, which sends people to a page on the hub that does not exist.
    (top / "LICENSE.txt").write_text(licence, encoding="utf-8")


def generation_signature(model_folder: Path) -> ModelSignature:
    """Text in, text out, and what a caller may set of the generation.

    MLflow passes on no parameter that the signature does not name. Defaults are those of the model's
    generation_config.json, and modest where it says nothing: 128 new tokens, the likeliest each.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    config = model_folder / "generation_config.json"
    stated = read_json_object(config) if config.is_file() else {}
    params = [
        ParamSpec(name, DataType[kind], _default(stated.get(name), usual))
        for name, (kind, usual) in _GENERATION.items()
    ]
    text = Schema([ColSpec(DataType.string)])
    return ModelSignature(text, text, ParamSchema(params))


def _default(stated: Any, usual: Number) -> Number:
    """What a file says, where it is of the kind of `usual`."""
    if isinstance(usual, float) and type(stated) is int:
        stated = float(stated)
    return stated if type(stated) is type(usual) else usual


def _tensors(model_folder: Path) -> Iterator[tuple[str, str]]:
    """Every tensor's name, and the file that holds it, as seen from above `model/`."""
    for path in weight_files(model_folder):
        with path.open("rb") as file:
            header = parse_json(file.read(int.from_bytes(file.read(8), "little")))
        yield from ((name, f"{_WEIGHTS}/{path.name}") for name in header if name != "__metadata__")

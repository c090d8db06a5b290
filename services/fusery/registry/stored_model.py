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

from fusery.json_text import parse_json

_WEIGHTS = "model"
_INDEX = "model.safetensors.index.json"
_TOP = ("*.json", "*.jinja", "*.txt", "*.model")


def write_top_files(model_folder: Path, top: Path, card: str, licence: str) -> None:
    """Writes into `top` what makes it loadable beside a folder `model/` that is a copy of `model_folder`."""
    for path in sorted({path for pattern in _TOP for path in model_folder.glob(pattern)}):
        if path.name != _INDEX:
            shutil.copyfile(path, top / path.name)
    placed = dict(_tensors(model_folder))
    size = sum(path.stat().st_size for path in model_folder.glob("*.safetensors"))
    index = {"metadata": {"total_size": size}, "weight_map": placed}
    (top / _INDEX).write_text(json.dumps(index, indent=1, sort_keys=True), encoding="utf-8")
    (top / "README.md").write_text(card, encoding="utf-8")
    (top / "model_card.md").write_text(card.split("---\n", 2)[-1].lstrip(), encoding="utf-8")
    # The trainer's short card lies beside the weights.
    (top / _WEIGHTS).mkdir()
    (top / _WEIGHTS / "README.md").write_text(card, encoding="utf-8")
    # In place of MLflow's own, which sends people to a page on the hub that does not exist.
    (top / "LICENSE.txt").write_text(licence, encoding="utf-8")


def _tensors(model_folder: Path) -> Iterator[tuple[str, str]]:
    """Every tensor's name, and the file that holds it, as seen from above `model/`."""
    for path in sorted(model_folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = parse_json(file.read(int.from_bytes(file.read(8), "little")))
        yield from ((name, f"{_WEIGHTS}/{path.name}") for name in header if name != "__metadata__")

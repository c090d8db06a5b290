"""What a checkpoint is, found out before its weights are read.

A run names several models, and the last of them must not fail after the first has worked for an hour. So
there are two looks: `check_checkpoint` reads file names and headers in milliseconds, without torch or
transformers; `inspect_checkpoint` (inspect.py) asks transformers for the architecture and the tokenizer. Neither
ever runs code that comes with a checkpoint, and neither opens a pickle.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusery.models.model_files import (
    INDEX,
    PICKLED,
    WEIGHTS,
    check_index,
    pickle_hint,
    read_config,
    refuse_companions,
    tokenizer_files,
    weight_files,
)
from fusery.runtime.errors import ModelError
from fusery.runtime.text.json import parse_json

NO_CONTEXT_LIMIT = 1 << 20
"""Context length given to models that have none of their own (state-space models, ALiBi without a limit)."""

_WEIGHTS, _DESCRIPTION = "*.safetensors", ("*.json", "*.model", "*.txt", "*.jinja")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")


def check_checkpoint(model: str, revision: str | None = None) -> None:
    """Returns if `model` is a Hub id or a folder that holds a loadable causal LM. Takes milliseconds.

    Raises:
        ModelError: the folder, its config.json, its safetensors weights or its tokenizer are missing or broken.
    """
    if not is_folder(model):
        if not HUB_ID.fullmatch(model):
            raise ModelError(f"model {model!r}: neither an existing folder nor a Hub id of the form name or owner/name")
        return
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ModelError(f"model {model}: no such folder; give the folder of a checkpoint or a Hub id")
    if revision is not None:
        raise ModelError(f"model {model}: a folder has no revision {revision!r}; leave the revision out")
    for path in weight_files(folder):
        _check_safetensors(path)
    tokenizer_files(folder)


def is_folder(model: str) -> bool:
    """Whether `model` means a place on this machine and not a Hub id."""
    return model.startswith((".", "/", "~")) or Path(model).exists()


def local_folder(model: str, revision: str | None = None) -> Path:
    """The folder with the files of `model`, checked; a Hub id is downloaded (safetensors and text only).

    Raises:
        ModelError: the checkpoint can't be had or can't be used.
    """
    check_checkpoint(model, revision)
    folder = Path(model).expanduser() if is_folder(model) else _download(model, revision, (*_DESCRIPTION, _WEIGHTS))
    if folder != Path(model).expanduser():
        check_checkpoint(str(folder))
    return folder


def _download(model: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        # Pickles are never fetched, so that nothing below can fall back to them.
        snapshot = snapshot_download(
            model, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*", "consolidated*"]
        )
    except (OSError, ValueError) as error:
        raise _not_had(model, revision, error) from error
    return Path(snapshot)


def _not_had(model: str, revision: str | None, error: Exception) -> ModelError:
    at = f" at revision {revision}" if revision else ""
    return ModelError(f"model {model}{at}: can't be had from the Hub: {error}")


def described_folder(model: str, revision: str | None) -> Path:
    """A folder with everything of `model` but, of a Hub id, its weights, which are only looked for."""
    check_checkpoint(model, revision)
    if is_folder(model):
        return Path(model).expanduser()
    folder = _download(model, revision, _DESCRIPTION)
    refuse_companions(folder)
    if not any(folder.glob("*.safetensors")):
        _check_weights_on_hub(model, revision, folder)
    return folder


def _check_weights_on_hub(model: str, revision: str | None, folder: Path) -> None:
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(model, revision=revision)
    except Exception as error:  # httpx's own errors are no OSError
        raise _not_had(model, revision, error) from error
    if INDEX in names:
        check_index(folder, has_single=WEIGHTS in names)
    elif WEIGHTS not in names:
        pickled = sorted(name for name in names if name.endswith(PICKLED))
        raise ModelError(f"model {model}: no safetensors weights in it{pickle_hint(pickled)}")


def _check_safetensors(path: Path) -> None:
    """Header readable and file as long as it says: finds broken downloads and Git LFS pointers."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ModelError(f"{path}: not a safetensors file ({size} bytes); download it again (a Git LFS pointer?)")
        try:
            header = parse_json(file.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path}: its safetensors header can't be read: {error!r}; download it again") from error
    if size != 8 + length + end:
        raise ModelError(f"{path}: {size} bytes, its header says {8 + length + end}; download it again")


def stated_context_length(model: str) -> int:
    """The context of a folder's model as its config.json says, without transformers; NO_CONTEXT_LIMIT if it doesn't.

    Raises:
        ModelError: as `read_config`.
    """
    config = read_config(Path(model).expanduser()) if is_folder(model) else {}
    values = (part.get(key) for part in (config, config.get("text_config")) if part for key in _CONTEXT_KEYS)
    return max((value for value in values if isinstance(value, int)), default=NO_CONTEXT_LIMIT)


def context_length(text_config: Any) -> int:
    """Tokens that the model reads at most, by the first of the names that configs use for it."""
    values = (getattr(text_config, key, None) for key in _CONTEXT_KEYS)
    return next((value for value in values if isinstance(value, int) and value > 0), NO_CONTEXT_LIMIT)

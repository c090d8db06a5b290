"""Weight merging: the mean of several checkpoints' weights, the simplest rival of fusion.

It works only among copies of one architecture with one vocabulary: everything that decides what a weight means must be
the same. What does not fit is refused with the first difference, which the report shows in place of a figure. Tensors
are read, averaged and written one file at a time, so memory holds one file of the first checkpoint.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from fusery.models.model_files import model_files, read_config, weight_files

_PLACE_KEYS = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"})
"""Config keys that do not decide what a weight means."""


@dataclass(frozen=True, slots=True)
class Member:
    """A checkpoint that may be merged: its name in the report, its folder, the fingerprint of its tokenizer."""

    name: str
    folder: Path
    tokenizer_fingerprint: str


def why_not(first: Member, other: Member) -> str | None:
    """Returns the first reason why `other` can't be merged with `first`, None if it can."""
    ours, theirs = _settings(first.folder), _settings(other.folder)
    if ours["model_type"] != theirs["model_type"]:
        return f"{other.name} is {theirs['model_type']!r}, {first.name} is {ours['model_type']!r}"
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            return f"{other.name} has {key} {theirs.get(key)!r} in its config, {first.name} {ours.get(key)!r}"
    if other.tokenizer_fingerprint != first.tokenizer_fingerprint:
        return f"{other.name} has another tokenizer than {first.name}"
    shapes, others = _shapes(first.folder), _shapes(other.folder)
    for name in sorted({*shapes, *others}):
        if shapes.get(name) != others.get(name):
            return f"{other.name} has {name} of shape {others.get(name)}, {first.name} {shapes.get(name)}"
    return None


def merge(members: Sequence[Member], output: Path) -> None:
    """Writes the checkpoint whose weights are the mean of those of `members`, in the first one's dtype.

    Whole or not at all. What is no floating-point number is the first one's. A finished `output` is left as it is.
    """
    if output.is_dir():
        return
    first = members[0].folder
    beside = output.with_name(f"{output.name}-{uuid.uuid4().hex[:8]}.tmp")
    beside.mkdir(parents=True)
    try:
        with ExitStack() as opened:
            tensors = [_tensors(member.folder, opened) for member in members]
            for path in weight_files(first):
                with safe_open(path, framework="pt") as file:
                    names = list(file.keys())
                place = beside / path.relative_to(first)
                place.parent.mkdir(exist_ok=True, parents=True)
                save_file({name: _mean(name, tensors) for name in names}, place, {"format": "pt"})
        for path in {*model_files(first)} - {*weight_files(first)}:
            shutil.copyfile(path, beside / path.name)
        beside.replace(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _mean(name: str, members: Sequence[Mapping[str, Any]]) -> Any:
    first = members[0][name].get_tensor(name)
    if not first.is_floating_point():
        return first
    total = first.double()
    for member in members[1:]:
        total += member[name].get_tensor(name)
    return (total / len(members)).to(first.dtype)


def _tensors(folder: Path, opened: ExitStack) -> dict[str, Any]:
    """The open file that holds each tensor."""
    files = [opened.enter_context(safe_open(path, framework="pt")) for path in weight_files(folder)]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118 (not a dict)


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Of every tensor, from the files' headers."""
    with ExitStack() as opened:
        files = _tensors(folder, opened)
        return {name: list(file.get_slice(name).get_shape()) for name, file in files.items()}


def _settings(folder: Path) -> dict[str, Any]:
    return {key: value for key, value in read_config(folder).items() if key not in _PLACE_KEYS}

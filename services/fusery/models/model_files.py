"""Which files make a model: the one place that says so.

transformers and peft look into a folder by themselves: an adapter beside the weights is applied, of two sets of weights
one is taken, a config may name others. Loader, fingerprint, a run's identity, merging and registered copies all read
what is told here, and a file that would make another model of the same weights is refused by its name.

Chat templates, cards, pickles and GGUF files beside safetensors, other variants and subfolders are not read, so they
are no part of the model and do no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fusery.runtime.errors import ModelError
from fusery.runtime.text.json import parse_json

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONFIG, GENERATION, WEIGHTS, INDEX = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
_ADAPTER = "adapter_config.json"
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "tekken.json")
"""Each of them is a tokenizer."""
_TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")
_TOKENIZER_SUFFIXES = (".json", ".model", ".txt")


def model_files(folder: Path) -> list[Path]:
    """All files that decide what the model computes and generates, ordered: configs, weights, tokenizer.

    Raises:
        ModelError: as `weight_files` and `tokenizer_files`.
    """
    weights, index = weight_files(folder), folder / INDEX
    configs = [path for path in (folder / CONFIG, folder / GENERATION, index) if path.is_file()]
    return [*configs, *weights, *tokenizer_files(folder)]


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that a tokenizer is read from, ordered by name; tekken.json, tokenizer.json, tokenizer_config.json, …

    Raises:
        ModelError: none of them is a tokenizer.
    """
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise ModelError(f"model {folder}: no tokenizer; expected one of {', '.join(_VOCABULARIES)}")
    found = {path for pattern in (*_TOKENIZER, *_VOCABULARIES) for path in folder.glob(pattern)}
    return sorted(path for path in found if path.is_file() and path.suffix in _TOKENIZER_SUFFIXES)


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json.

    Raises:
        ModelError: it is missing, not JSON, or has no model_type.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"model {folder}: no config.json in it{_adapter_hint(folder) or _gguf_hint(folder)}")
    try:
        config = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"model {folder}: config.json can't be read as JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"model {folder}: config.json has no model_type; is this a transformers checkpoint?")
    return config


def refuse_companions(folder: Path) -> None:
    """Returns if nothing beside config.json makes transformers build or load another model than it describes.

    Raises:
        ModelError: an adapter, another config or other weights would be taken; names the file.
    """
    config = read_config(folder)
    if hint := _adapter_hint(folder):
        raise ModelError(f"model {folder}: its weights are not all of it{hint}")
    if others := config.get("configuration_files"):
        raise ModelError(
            f"model {folder}: config.json names other configs for other versions of transformers "
            f"(configuration_files: {others}); keep the one that is meant as config.json, without that key"
        )
    if code := next((text for text in _implementations(config) if "/" in text), None):
        raise ModelError(
            f"model {folder}: config.json names {code!r} as its implementation, which is code from the Hub and never "
            "run; take that key out of config.json"
        )
    # Of the usual names, the first that is there is what transformers loads without being told.
    usual = next((name for name in (WEIGHTS, INDEX) if (folder / name).is_file()), WEIGHTS)
    if (named := config.get("transformers_weights")) not in (None, usual):
        raise ModelError(
            f"model {folder}: config.json says that its weights are in {named!r} (transformers_weights); "
            f"rename that file to {WEIGHTS}, and take the key out of config.json"
        )


def _implementations(part: object) -> Iterator[str]:
    """What a config, and the configs in it, say of code to compute attention and the like with."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if isinstance(key, str) and key.endswith("implementation"):
            yield from map(str, value.values() if isinstance(value, dict) else [value])
        else:
            yield from _implementations(value)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights, ordered by name; the index may place them in subfolders.

    Raises:
        ModelError: there are none (or pickles only), two sets of them, an adapter beside them, or the index names a
            file that is missing, no safetensors file, or outside the folder.
    """
    refuse_companions(folder)
    index, single = folder / INDEX, folder / WEIGHTS
    if not index.is_file():
        if single.is_file():
            return [single]
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        variants = ", ".join(sorted(path.name for path in folder.glob("model.*.safetensors"))[:4])
        variant = f", only a variant ({variants}); rename it to {WEIGHTS}" if variants else ""
        hint = variant or pickle_hint(pickled) or _gguf_hint(folder)
        raise ModelError(f"model {folder}: no {WEIGHTS} in it{hint}")
    names = check_index(folder, single.is_file())
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(f"model {folder}: {INDEX} names {', '.join(missing)}, missing; download again")
    return [folder / name for name in names]


def check_index(folder: Path, has_single: bool) -> list[str]:
    """The files that a folder's index names, ordered; `has_single`: whether a model.safetensors belongs to it.

    Raises:
        ModelError: as `weight_files`, but for missing files.
    """
    names = _indexed(folder / INDEX)
    if has_single and names != [WEIGHTS]:
        raise ModelError(
            f"model {folder}: two sets of weights, {WEIGHTS} and those of {INDEX}, of which transformers loads the "
            "first alone; take away the one that is not meant"
        )
    return names


def _indexed(index: Path) -> list[str]:
    """The files that an index names, ordered.

    Raises:
        ModelError: it names none, or one that is no safetensors file under the index's own folder.
    """
    try:
        named = set(parse_json(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"model {index.parent}: {index.name} has no readable weight_map: {error!r}") from error
    wrong = sorted(repr(name) for name in named if not _is_inside(name))
    if wrong or not named:
        raise ModelError(
            f"model {index.parent}: {index.name} names {', '.join(wrong[:3]) or 'no file'}, expected *.safetensors "
            "files in its own folder; download the model again"
        )
    return sorted(named)


def _is_inside(name: object) -> bool:
    """Whether `name` is a safetensors file under the folder that it is relative to, however that is spelled."""
    if not isinstance(name, str) or "\\" in name or "\0" in name or ":" in name:
        return False
    path = PurePosixPath(name)
    return path.suffix == ".safetensors" and not path.is_absolute() and ".." not in path.parts


def pickle_hint(pickled: Sequence[str]) -> str:
    """What to do with a folder of pickles, "" if there are none."""
    if not pickled:
        return ""
    return (
        f", only pickled weights ({', '.join(pickled[:4])}), which run code when loaded and are never opened; convert "
        "them where you trust them: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(other_folder)"
    )


def _adapter_hint(folder: Path) -> str:
    if not (folder / _ADAPTER).exists():
        return ""
    return (
        f": transformers applies the adapter of {_ADAPTER}; merge it into its base model: "
        "AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(other_folder), or move "
        "the adapter's files away"
    )


def _gguf_hint(folder: Path) -> str:
    quantised = sorted(path.name for path in folder.glob("*.gguf"))
    if not quantised:
        return ""
    return (
        f", only GGUF ({', '.join(quantised[:4])}); convert it: "
        "AutoModelForCausalLM.from_pretrained(folder, gguf_file=name).save_pretrained(other_folder)"
    )

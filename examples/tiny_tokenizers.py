"""Three kinds of tokenizer, each of which spells any text without loss, so that alignment has real work to do.

None has a normaliser or a dummy prefix: a text is its tokens' bytes and nothing else. Newlines and tabs are byte
tokens in the docs tokenizer, as in Llama-2's; the other two have them in pieces. The library's Unigram trainer gives
other scores on every call, so the pieces are learnt here: slower by seconds, and the same each time.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

CONTEXT_TOKENS = 512
END_OF_TEXT = "<|endoftext|>"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# SentencePiece's rules: a run of spaces, a word with the space before it, a digit, a run of signs.
_WORDS = r" +(?= \S)| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+| +"
_EM_ROUNDS = 3


def docs_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """SentencePiece-style BPE with Metaspace, byte fallback and a BOS, like Llama-2's."""
    special = ["<unk>", "<s>", "</s>"]
    # Learns from lines, so newlines and tabs are never in a piece and fall back to their bytes.
    lines = (line.replace("\t", " ") for text in texts for line in _ascii(text).split("\n"))
    vocab, merges = _learn_bpe(lines, _metaspace(_WORDS), vocab_size - len(_BYTES) - len(special))
    ids = {piece: i for i, piece in enumerate([*special, *_BYTES, *sorted(vocab, key=lambda piece: vocab[piece])])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = _metaspace(_WORDS + r"|\s")
    tokenizer.decoder = _metaspace_decoder()
    tokenizer.add_special_tokens(special)
    bos = [("<s>", ids["<s>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=bos)
    return tokenizer


def python_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE without a BOS, like GPT-NeoX's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def cpp_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Unigram with Metaspace and byte fallback, without a BOS, like T5's or Gemma's."""
    # A newline goes with the indentation after it: a piece that neither of the other two can have.
    splits = _metaspace(r"\n *(?= \S)|\n *|\t+|" + _WORDS + r"|\s")
    words = Counter(word for text in texts for word, _ in splits.pre_tokenize_str(_ascii(text)))
    repeated = (word for word, count in words.items() for _ in range(count))
    candidates, _ = _learn_bpe(repeated, None, 2 * vocab_size)
    special = [END_OF_TEXT, "<unk>"]
    pieces = _unigram_pieces(candidates, words, vocab_size - len(_BYTES) - len(special))
    # Never the best path: a byte token is for what no piece spells.
    least = round(min(score for _, score in pieces) - 10.0, 4)
    vocab = [(piece, 0.0) for piece in special] + [(piece, least) for piece in _BYTES] + pieces
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=1, byte_fallback=True))
    tokenizer.pre_tokenizer = splits
    tokenizer.decoder = _metaspace_decoder()
    tokenizer.add_special_tokens(special)
    return tokenizer


def learn(domain: str, texts: Mapping[str, Sequence[str]], vocab_size: int, max_bytes: int) -> Tokenizer:
    """The domain's kind of tokenizer, from all domains' texts; a source takes twice as much of its own."""
    sample = [
        text for d, of_d in texts.items() for text in _within(of_d, max_bytes * (2 if d == domain != "docs" else 1))
    ]
    return {"docs": docs_tokenizer, "python": python_tokenizer, "cpp": cpp_tokenizer}[domain](sample, vocab_size)


def _within(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    for text in texts:
        yield text
        max_bytes -= len(text)
        if max_bytes < 0:
            return


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """A tokenizer's files, as AutoTokenizer reads them."""
    special = {name: name for name in ("<s>", "</s>", "<unk>", END_OF_TEXT) if tokenizer.token_to_id(name) is not None}
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=special.get("<s>", END_OF_TEXT),
        eos_token=special.get("</s>", END_OF_TEXT),
        unk_token=special.get("<unk>"),
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(folder)


def check_reload(tokenizer: Tokenizer, folder: Path, texts: Iterable[str]) -> None:
    """Compare AutoTokenizer's ids with those trained on: transformers 5 rebuilds some tokenizers by their class.

    Raises:
        RuntimeError: if a text's ids differ, or if they don't spell it.
    """
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in texts:
        ids = loaded(text)["input_ids"]
        if ids != tokenizer.encode(text).ids or loaded.decode(ids, skip_special_tokens=True) != text:
            raise RuntimeError(f"{folder}: the saved tokenizer reads otherwise than the trained one: {text[:60]!r}")


def _ascii(text: str) -> str:
    """The trainer's own limit on the alphabet breaks ties at random, so what is rare is left out here."""
    return text.encode("ascii", "ignore").decode()


def _metaspace(pattern: str) -> pre_tokenizers.PreTokenizer:
    marker = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), marker])


def _metaspace_decoder() -> decoders.Decoder:
    return decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])


def _learn_bpe(
    texts: Iterable[str], splits: pre_tokenizers.PreTokenizer | None, vocab_size: int
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces with their rank, and the merges that make them."""
    tokenizer = Tokenizer(models.BPE())
    if splits is not None:
        tokenizer.pre_tokenizer = splits
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _unigram_pieces(candidates: Iterable[str], words: Counter[str], count: int) -> list[tuple[str, float]]:
    """`count` pieces with log-probabilities by Viterbi EM: segment the words, count the pieces, drop the rarest."""
    # Equal scores: the first segmentation is the one of the fewest pieces.
    pieces = dict.fromkeys(sorted(candidates), -1.0)
    for left in range(_EM_ROUNDS - 1, -1, -1):
        used = _count_pieces(pieces, words)
        # Characters stay: without them a word would fall into bytes.
        ranked = sorted(pieces, key=lambda piece: (len(piece) > 1, -used[piece], piece))
        kept = ranked[: count + (len(ranked) - count) * left // _EM_ROUNDS]
        total = sum(used[piece] + 1 for piece in kept)
        # Four digits: the library writes longer ones so that it reads them one bit off, and near-ties then turn over.
        pieces = {piece: round(math.log((used[piece] + 1) / total), 4) for piece in kept}
    return sorted(pieces.items(), key=lambda item: (-item[1], item[0]))


def _count_pieces(pieces: dict[str, float], words: Counter[str]) -> Counter[str]:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *pieces.items()], unk_id=0, byte_fallback=False))
    used: Counter[str] = Counter()
    spelled = words.keys()
    for word, encoding in zip(spelled, tokenizer.encode_batch(list(spelled)), strict=True):
        for piece in encoding.tokens:
            used[piece] += words[word]
    return used

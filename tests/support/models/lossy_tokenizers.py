"""Tokenizers that do not spell every text, by what they lose, each with a text that it spells and one it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from fusery.core.tokens import ByteTokenizer

WORDS = ("def", "go", "play", "the", "games", "of", "(", ")", ":", ",", "return")
PIECES = ("ing", "s", "er", "ly")


def word_piece(*further: str) -> Tokenizer:
    """As BERT's: words, and pieces "##ing" that continue them; white space is dropped."""
    tokens = ["[UNK]", *WORDS, *further, *(f"##{piece}" for piece in PIECES)]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def word_ends() -> Tokenizer:
    """As GPT-1's and CLIP's: "the</w>" ends a word; white space is dropped."""
    letters = sorted(set("".join(WORDS)))
    tokens = ["[UNK]", *letters, *(f"{letter}</w>" for letter in letters), "th", "the</w>"]
    merges = [("t", "h"), ("th", "e</w>")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="[UNK]", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    return tokenizer


def letters(normalizer: normalizers.Normalizer | None) -> Tokenizer:
    """One token for each letter of a small alphabet, after `normalizer`."""
    alphabet = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz é\n.12")} | {"<unk>": 99}
    tokenizer = Tokenizer(models.WordLevel(alphabet, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


def unigram() -> Tokenizer:
    """As T5's: a space becomes "▁", what is not known one token, however long."""
    pieces = [("<unk>", 0.0), *((piece, -2.0) for piece in ("▁", "▁the", "▁of", "e", "t", "h"))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
    return tokenizer


def _words(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def _sequence(*steps: normalizers.Normalizer) -> normalizers.Normalizer:
    return normalizers.Sequence(list(steps))


@dataclass(frozen=True)
class Kind:
    """`exact` is what the tokenizer makes of `lossy`, as far as it spells it: nothing of the rest is predicted."""

    make: Callable[[], Tokenizer]
    exact: str
    lossy: str


_CODE = "def play ( games ) : return the games"
_INDENTED = "def play ( games ) :\n            return            the\n\n\n\n            games\n\n"

KINDS = {
    "WordPiece drops indentation": Kind(word_piece, _CODE, _INDENTED),
    "end-of-word tokens drop indentation": Kind(word_ends, _CODE, _INDENTED),
    "white space is a separator": Kind(lambda: _words(pre_tokenizers.WhitespaceSplit()), _CODE, _INDENTED),
    "words and signs": Kind(lambda: _words(pre_tokenizers.Whitespace()), _CODE, _INDENTED),
    "capitals become small": Kind(lambda: letters(normalizers.Lowercase()), "the games of", "THE Games oF"),
    "accents are stripped": Kind(
        lambda: letters(_sequence(normalizers.NFD(), normalizers.StripAccents())), "the cafe", "thé cafe\u0301"
    ),
    "ligatures are taken apart": Kind(lambda: letters(normalizers.NFKC()), "office 12", "oﬃce ①②"),
    "marks are composed": Kind(lambda: letters(normalizers.NFC()), "café", "cafe\u0301"),
    "runs of spaces collapse": Kind(
        lambda: letters(normalizers.Replace(Regex(" +"), " ")), "the games", "the" + 40 * " " + "games"
    ),
    "newlines collapse": Kind(
        lambda: letters(normalizers.Replace(Regex("\n+"), "\n")), "the\ngames", "the" + 40 * "\n" + "games"
    ),
    "newlines become spaces": Kind(
        lambda: letters(normalizers.Replace(Regex(r"\s+"), " ")), "the games", "the" + 40 * "\n" + "games"
    ),
    "the ends are stripped": Kind(
        lambda: letters(normalizers.Strip()), "the games", 40 * " " + "the games" + 40 * "\n"
    ),
    "unknown words": Kind(word_piece, "the games of", "the Weltanschauung of"),
    "unknown characters": Kind(lambda: letters(None), "the cafe", "thë cäfe"),
    "a long unknown run": Kind(unigram, "the of the", "the 東京は日本の首都です。今日はとても良い天気です of the"),
    "words over the longest that WordPiece reads": Kind(word_piece, "the games of go", "the " + 120 * "s" + " of go"),
}


def tokenizer_of(kind: Kind) -> ByteTokenizer:
    return ByteTokenizer(kind.make(), name="lossy")

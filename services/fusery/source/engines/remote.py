"""What engines of inference servers share: the tokenizer beside a server, limits found by asking, rows put in order.

The server tokenises, or trusts our ids; either way both sides must mean the same tokens. So the tokenizer is read
from tokenizer.json, compared with the server's own at the start, and its BOS habit is taken from the server.

Dimensions: T tokens of a document, K entries kept per token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from fusery.core.definition import built
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.core.topk import IntArray, TopK
from fusery.models.checkpoint import HUB_ID
from fusery.models.tokenizer import read_definition
from fusery.runtime.errors import InvalidInput, Mismatch, ModelError
from fusery.runtime.text.json import parse_json
from fusery.source.api import Distributions, Document, Limits, ModelDescription, check_request, check_tokens

MOST_TOP_K = Limits().max_top_k
UNKNOWN_DTYPE = "unknown"
PROBE = "The 12 quick foxes\tjump over\r\n   the lazy dog, don't they?"
"""Tokenised by both sides at the start. ASCII, so that tokenizers of any kind know its characters."""

_ROUNDING = 1e-3

Entries = Iterable[tuple[int, float]]


@dataclass(frozen=True, slots=True, eq=False)
class TokenizerFolder:
    """A tokenizer without a BOS habit. `embeddings`: the model's, where config.json beside it tells, else tokens."""

    name: str
    backend: Tokenizer
    vocabulary_size: int
    embeddings: int


def hub_id(named: str) -> str:
    """`named`, which a server calls its model by: a Hub id or a folder that is here.

    Raises:
        ModelError: a path of that machine, which another machine must not open.
    """
    if not HUB_ID.fullmatch(named):
        raise ModelError(
            f"the server calls its model {named!r}, which is no Hub id; name its tokenizer: --tokenizer FOLDER"
        )
    return named


def read_tokenizer_folder(tokenizer: str, revision: str | None = None) -> TokenizerFolder:
    """The tokenizer.json, and config.json if there is one, of a folder or a Hub id. Needs no torch.

    Raises:
        ModelError: there is no readable tokenizer.json.
    """
    folder = Path(tokenizer).expanduser()
    if not folder.is_dir():
        folder = _download(tokenizer, revision)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"tokenizer {tokenizer}: no tokenizer.json in it; write one with transformers: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(other_folder)"
        )
    backend = built(read_definition(path), f"tokenizer {path}")
    # One more than the largest id, as `ByteTokenizer.size`: ids may have gaps.
    tokens = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    logits = _logits(folder / "config.json")
    return TokenizerFolder(Path(tokenizer).name, backend, max(logits, tokens), logits or tokens)


def _download(tokenizer: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        files = ["tokenizer.json", "config.json"]
        return Path(snapshot_download(tokenizer, revision=revision, allow_patterns=files))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"tokenizer {tokenizer}: neither a folder here nor to be had from the Hub: {' '.join(str(error).split())}; "
            "give the folder of the served model's tokenizer (--tokenizer, or `tokenizer` in the YAML)"
        ) from error


def _logits(config: Path) -> int:
    """`vocab_size` of a config.json, 0 where it tells none."""
    if not config.is_file():
        return 0
    try:
        fields = parse_json(config.read_bytes())
    except ValueError as error:
        raise ModelError(f"{config}: can't be read as JSON: {error}") from error
    sizes = (part.get("vocab_size") for part in (fields, fields.get("text_config")) if isinstance(part, dict))
    return next((size for size in sizes if isinstance(size, int)), 0)


def tokenizer_of(folder: TokenizerFolder, server_ids: Sequence[int], server: str) -> ByteTokenizer:
    """The folder's tokenizer with the BOS habit that the server shows: `server_ids` is how it reads PROBE.

    Raises:
        Mismatch: the server reads PROBE with other tokens, or puts some behind it.
    """
    plain = ByteTokenizer(folder.backend, (), folder.name).tokenize(PROBE).ids_T.tolist()
    start = len(server_ids) - len(plain)
    if start < 0 or list(server_ids[start:]) != plain:
        raise Mismatch(
            f"{server}: it reads a probe text as tokens {list(server_ids[:8])}…, {folder.name} as {plain[:8]}…; "
            "give the tokenizer of the served model (--tokenizer, or `tokenizer` in the YAML)"
        )
    return ByteTokenizer(folder.backend, server_ids[:start], folder.name).of_model(folder.embeddings)


def prepared(
    documents: Sequence[Document], top_k: int, model: ModelDescription, tokenizer: ByteTokenizer
) -> list[TokenizedText]:
    """The documents' tokens, checked as every engine checks them.

    Raises:
        InvalidInput, TooLarge: the request is not one that this server can answer.
    """
    check_request(documents, top_k, model)
    texts = tokenizer.tokenize_batch([document.text for document in documents], [document.id for document in documents])
    check_tokens(documents, [len(text.ids_T) for text in texts], top_k, model)
    return texts


def distributions(
    document: Document, text: TokenizedText, rows: Sequence[Entries | None], following: Sequence[float], top_k: int
) -> Distributions:
    """One document's answer; None: a position for which the server has no distribution, a row without mass.

    `following`: log-probability of token i+1 at i, for all positions but the last.

    Raises:
        ModelError: what the server gives are no log-probabilities of the `top_k` best tokens.
    """
    pairs = [_best_first(entries, top_k, document.id) for entries in rows]
    ids_TK, log_probs_TK = np.stack([ids for ids, _ in pairs]), np.stack([values for _, values in pairs])
    next_T = np.append(np.asarray(following, np.float64), 0.0)
    if not (next_T <= _ROUNDING).all():
        raise ModelError(f"document {document.id!r}: the server gives a log-probability that is NaN or positive")
    try:
        top = TopK(ids_TK, log_probs_TK.astype(np.float32))
    except ValueError as error:
        raise ModelError(f"document {document.id!r}: the server gives no log-probabilities: {error}") from error
    return Distributions(document.id, text.ids_T, text.byte_ends_T, top, np.minimum(next_T, 0).astype(np.float32))


def _best_first(entries: Entries | None, top_k: int, document: str) -> tuple[IntArray, Any]:
    """The k best of the entries, of equal ones the smaller id first."""
    if entries is None:
        return np.arange(top_k, dtype=np.int64), np.full(top_k, -np.inf)
    listed = list(entries)
    if len({index for index, _ in listed}) != len(listed):
        raise ModelError(f"document {document!r}: the server gives a token twice among the best ones of one position")
    ordered = sorted(listed, key=lambda entry: (-entry[1], entry[0]))[:top_k]
    if any(not 0 <= index < 1 << 32 for index, _ in ordered):
        raise ModelError(f"document {document!r}: the server gives a token id that is none: {ordered[:4]}")
    ids, values = np.array([entry[0] for entry in ordered], np.int64), np.array([entry[1] for entry in ordered])
    if len(ids) < top_k:
        raise ModelError(f"document {document!r}: the server gives {len(ids)} entries of {top_k} asked for")
    if not (values <= _ROUNDING).all():
        raise ModelError(
            f"document {document!r}: the server gives {values[:4].tolist()} as log-probabilities, expected at most 0; "
            "serve log-probabilities at temperature 1, not logits"
        )
    return ids, np.minimum(values, 0.0)


def check_setup(server: str, described: Mapping[str, object], answer: Mapping[str, object]) -> None:
    """Returns if `answer` tells of the server what was told when its model was described.

    Raises:
        Mismatch: it does not, so its captures must not stand under the old fingerprint.
    """
    for key, before in described.items():
        if (now := answer.get(key)) != before:
            raise Mismatch(
                f"{server}: its {key} is now {now!r}, it was {before!r} when this source server asked what it is: "
                "another server, or one with other settings, answers there; start this source server (or the run that "
                "started it) again. If both answer alike, say so with same_as (docs/engines.md)"
            )


def check_width(answers: Sequence[Distributions], model: ModelDescription) -> None:
    """Returns if all ids lie under the vocabulary's width.

    Raises:
        Mismatch: one does not.
    """
    largest = max(int(answer.top.ids_RK.max()) for answer in answers)
    if largest >= model.vocabulary_size:
        raise Mismatch(
            f"{model.name}: the server gives token {largest}, past the {model.vocabulary_size} of the tokenizer's "
            "folder; put the served model's config.json beside tokenizer.json"
        )


def largest_accepted(ask: Callable[[int], object], most: int) -> int:
    """The largest number from 1 to `most` that the server takes, 0 if none; what is under an accepted one is too.

    A number that it does not take is an InvalidInput of `ask`; other errors go on.
    """

    def accepts(number: int) -> bool:
        try:
            ask(number)
        except InvalidInput as error:
            if type(error) is not InvalidInput:
                raise
            return False
        return True

    low, high = 0, most
    if accepts(most):
        return most
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if accepts(middle) else (low, middle)
    return low


def fingerprint_of(**known: object) -> str:
    """SHA-256 (hex) of what a server tells about its model; its weights can't be hashed from outside."""
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

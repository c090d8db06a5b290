"""A text-generation-inference server as an engine (API of TGI 3.3).

TGI gives the log-probabilities of a prompt's own tokens, and the n best tokens only where it generates. So a
document of T tokens costs T requests of one token each: one over the whole text with `decoder_input_details`, and
one for every shorter prefix. It takes text and not ids, so a position can be asked for only if the text before it
reads as the very tokens before it: not inside a character, and not before the first. Such rows come without mass.

Dimensions: T tokens of a document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np

from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.runtime.errors import AddressError, InvalidInput, ModelError
from fusery.source.api import Distributions, Document, Limits, ModelDescription
from fusery.source.engines import remote
from fusery.source.engines.http_calls import HttpServer
from fusery.source.engines.remote import Entries

_REQUESTS_AT_ONCE = 32
_IDENTITY = ("model_id", "model_sha", "model_dtype", "version", "sha")
"""Of /info: what tells one server's answers from another's."""
_PREFILL_HINT = "start text-generation-launcher with --enable-prefill-logprobs (off by default since TGI 3.0)"

_MAX_ANSWER_BYTES = 64 << 20
"""Of one answer: the text's own tokens, and the best ones behind it."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What TGI says of a text: its own tokens with log-probabilities (None for the first), the best tokens after it."""

    tokens: list[tuple[int, float | None]]
    best: list[tuple[int, float]]


class TgiServer:
    """The two methods of TGI's API that the engine needs."""

    def __init__(self, server: HttpServer) -> None:
        self.name = server.name
        self._http = server

    def info(self) -> dict[str, Any]:
        found = self._http.get("/info")
        told = found if isinstance(found, dict) else {}
        texts, numbers = ("model_id", "version"), ("max_input_tokens", "max_total_tokens", "max_concurrent_requests")
        absent = [key for key in texts if not isinstance(told.get(key), str)]
        absent += [key for key in numbers if not isinstance(told.get(key), int)]
        if absent:
            raise AddressError(f"{self.name}: /info lacks {', '.join(absent)}; is this text-generation-inference 3?")
        return told

    def generate(self, text: str, best: int, prefill: bool = False) -> Prompt:
        """The `best` most probable tokens after `text`, ties beyond them included; its own tokens if `prefill`.

        No temperature, penalty, top_k or watermark is ever sent: TGI applies them before it takes log-probabilities.

        Raises:
            InvalidInput: TGI refuses the text or the number.
            Unavailable: it is overloaded or gone, after a few attempts.
        """
        parameters = {"details": True, "decoder_input_details": prefill, "max_new_tokens": 1, "top_n_tokens": best}
        # At the root, also where `url` has a path; TGI's list of one answer.
        answer = self._http.post("", {"inputs": text, "parameters": parameters, "stream": False}, _MAX_ANSWER_BYTES)
        try:
            details = (answer[0] if isinstance(answer, list) else answer)["details"]
            found = map(_token, (details.get("top_tokens") or [[]])[0])
            return Prompt(
                [_token(token) for token in details["prefill"]],
                [(index, nan if value is None else value) for index, value in found],
            )
        except (AttributeError, ValueError, TypeError, LookupError) as error:
            raise AddressError(
                f"{self.name}: its answer has no details; is this a text-generation-inference server?"
            ) from error


def _token(token: dict[str, Any]) -> tuple[int, float | None]:
    """Id and log-probability."""
    return int(token["id"]), None if token["logprob"] is None else float(token["logprob"])


@dataclass(frozen=True, slots=True, eq=False)
class TgiEngine:
    """A model that a TGI server runs. `told`: what /info said of it when the model was described."""

    model: ModelDescription
    tokenizer: ByteTokenizer
    server: TgiServer
    at_once: int
    told: Mapping[str, object]

    def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
        """Log-probabilities as TGI computes them, in batches that it makes up itself.

        Raises:
            InvalidInput, TooLarge: the request is not one that this server can answer.
            Mismatch: another server, or one with other settings, answers than the one described.
            ModelError: prompt log-probabilities are switched off, or are none.
            Unavailable: the server is overloaded or gone.
        """
        texts = remote.prepared(documents, top_k, self.model, self.tokenizer)
        pool = ThreadPoolExecutor(self.at_once)
        try:
            answers = [self._answer(pool, d, t, top_k) for d, t in zip(documents, texts, strict=True)]
        finally:
            # After a failure the requests that have not begun are of no use.
            pool.shutdown(cancel_futures=True)
        # No answer of TGI says which server it comes from, so the server is asked once behind the answers.
        remote.check_setup(self.server.name, self.told, self.server.info())
        remote.check_width(answers, self.model)
        return answers

    def _answer(self, pool: ThreadPoolExecutor, document: Document, text: TokenizedText, top_k: int) -> Distributions:
        whole = self.server.generate(document.text, top_k, prefill=True)
        following = _following(whole, text, document.id)
        prefixes = readable_prefixes(self.tokenizer, document.text, text)
        found = pool.map(lambda prefix: self.server.generate(prefix, top_k).best, prefixes.values())
        best = dict(zip(prefixes, found, strict=True))
        rows: list[Entries | None] = [*(best.get(i) for i in range(len(text.ids_T) - 1)), whole.best]
        return remote.distributions(document, text, rows, following, top_k)


def _following(whole: Prompt, text: TokenizedText, document: str) -> list[float]:
    """The log-probabilities of all tokens but the first."""
    if not whole.tokens:
        raise ModelError(f"document {document!r}: TGI gives no log-probabilities of prompts; {_PREFILL_HINT}")
    ids = [index for index, _ in whole.tokens]
    if ids != text.ids_T.tolist():
        differs = next((i for i, (a, b) in enumerate(zip(ids, text.ids_T.tolist(), strict=False)) if a != b), len(ids))
        raise InvalidInput(
            f"document {document!r}: TGI reads it with other tokens, from token {differs} on (does it hold the text "
            "of a special token?); leave this document out"
        )
    values = [value for _, value in whole.tokens[1:] if value is not None]
    if len(values) != len(ids) - 1:
        raise ModelError(f"document {document!r}: TGI leaves log-probabilities of the prompt out; {_PREFILL_HINT}")
    return values


def readable_prefixes(tokenizer: ByteTokenizer, text: str, tokens: TokenizedText) -> dict[int, str]:
    """Position → the text up to it, for all but the last position where that text reads as the tokens so far."""
    data, prefixes = text.encode(), {}
    for i in range(len(tokens.ids_T) - 1):
        try:
            prefix = data[: int(tokens.byte_ends_T[i])].decode()
            is_same = bool(prefix) and np.array_equal(tokenizer.tokenize(prefix).ids_T, tokens.ids_T[: i + 1])
        except (UnicodeDecodeError, ModelError):
            continue
        if is_same:
            prefixes[i] = prefix
    return prefixes


def open_tgi(
    url: str,
    tokenizer: str | None = None,
    token: str | None = None,
    *,
    name: str | None = None,
    limits: Limits | None = None,
    same_as: str | None = None,
    timeout_s: float = 300.0,
) -> TgiEngine:
    """The engine of the TGI server at `url`; without `tokenizer` it is read from the model that the server names.

    `same_as`: the weights' fingerprint of a source that it answers like, as its user says.

    Raises:
        ModelError: the tokenizer can't be had, or the server gives no log-probabilities of prompts.
        Mismatch: the tokenizer is not the server's.
        Unavailable, AddressError, ConfigError: the server does not answer, is another one, or wants a token.
    """
    server = TgiServer(HttpServer(f"tgi:{url}", url, token, timeout_s))
    info = server.info()
    folder = remote.read_tokenizer_folder(
        tokenizer or remote.hub_id(info["model_id"]), None if tokenizer else info.get("model_sha")
    )
    probe = server.generate(remote.PROBE, 1, prefill=True)
    if not probe.tokens or any(value is None for _, value in probe.tokens[1:]):
        raise ModelError(f"{server.name}: it gives no log-probabilities of prompts; {_PREFILL_HINT}")
    bytes_of = remote.tokenizer_of(folder, [index for index, _ in probe.tokens], server.name)
    allowed = limits or Limits()
    most = min(allowed.max_top_k, folder.vocabulary_size)
    top_k = remote.largest_accepted(lambda n: server.generate("a", n), most)
    if top_k == 0:
        raise ModelError(f"{server.name}: it gives no top tokens; start it with --max-top-n-tokens 20 or more")
    description = _description(info, name, folder.vocabulary_size, bytes_of, replace(allowed, max_top_k=top_k))
    if same_as is not None:
        description = replace(description, weights_fingerprint=same_as)
    at_once = min(_REQUESTS_AT_ONCE, int(info["max_concurrent_requests"]))
    return TgiEngine(description, bytes_of, server, at_once, {key: info.get(key) for key in _IDENTITY})


def _description(
    info: dict[str, Any], name: str | None, vocabulary_size: int, tokenizer: ByteTokenizer, limits: Limits
) -> ModelDescription:
    dtype = str(info.get("model_dtype") or remote.UNKNOWN_DTYPE).removeprefix("torch.")
    return ModelDescription(
        name=name or str(info["model_id"]).rstrip("/").rpartition("/")[2],
        revision=info.get("model_sha"),
        weights_fingerprint=remote.fingerprint_of(engine="tgi", **{key: info.get(key) for key in _IDENTITY}),
        tokenizer_fingerprint=tokenizer.fingerprint,
        architecture=f"tgi {info['version']}",
        vocabulary_size=vocabulary_size,
        # One token is generated behind the longest prompt.
        context_length=min(int(info["max_input_tokens"]), int(info["max_total_tokens"]) - 1),
        dtype=dtype,
        prefix_ids=tuple(tokenizer.prefix_ids.tolist()),
        limits=limits,
    )

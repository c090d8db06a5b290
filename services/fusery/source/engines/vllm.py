"""A vLLM server as an engine (OpenAI-compatible API of vLLM 0.32.0 and 0.33.0 with its extension `prompt_logprobs`).

One request a document: the prompt is sent as token ids, `prompt_logprobs` gives the best entries of every position
but the last, and one generated token with `logprobs` gives those of the last. vLLM makes up its batches itself.

Dimensions: T tokens of a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.runtime.errors import AddressError, Mismatch, ModelError
from fusery.source.api import Distributions, Document, Limits, ModelDescription
from fusery.source.engines import remote
from fusery.source.engines.http_calls import HttpServer

_REQUESTS_AT_ONCE = 16
_ZERO = -9999.0
"""What vLLM writes for a log-probability of minus infinity, which JSON does not have."""

_UNCHANGED: dict[str, float | int] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
"""Sent always: else the model's generation_config.json decides, which --logprobs-mode processed_logprobs lets count.
Nothing that it can't decide is sent. Above all no `seed`: the generated token is not used, and a CPU server of vLLM
0.32 ends at a seeded request whose prompt it prefills in pieces."""

_ENTRY_BYTES, _ANSWER_BYTES = 512, 1 << 20
"""More than JSON takes for one entry of an answer (69 bytes on average), and for the rest of it."""


class VllmServer:
    """The calls of vLLM's API that the engine needs, for one of the models that it serves."""

    def __init__(self, server: HttpServer, model: str) -> None:
        self.name = server.name
        self._http = server
        self._model = model

    def tokenize(self, text: str) -> list[int]:
        """The ids with which the server would read `text`, special tokens included."""
        answer = self._http.post("/tokenize", {"model": self._model, "prompt": text, "add_special_tokens": True})
        return [int(index) for index in self._field(answer, "tokens")]

    def complete(self, ids: Sequence[int], top_k: int) -> dict[str, Any]:
        """The one choice of a completion of one token behind `ids`, with `top_k` log-probabilities at every position.

        Raises:
            InvalidInput: vLLM refuses the prompt or the number.
            Unavailable: it is overloaded or gone, after a few attempts.
        """
        body = {
            "model": self._model,
            "prompt": list(ids),
            "max_tokens": 1,
            "prompt_logprobs": top_k,
            "logprobs": top_k,
            "add_special_tokens": False,
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
            **_UNCHANGED,
        }
        most = _ANSWER_BYTES + len(ids) * (top_k + 1) * _ENTRY_BYTES
        answer = self._http.post("/v1/completions", body, most)
        choices = self._field(answer, "choices")
        if not isinstance(choices, list) or len(choices) != 1:
            raise AddressError(f"{self.name}: its answer has no choice; is this a vLLM server?")
        return {**choices[0], "system_fingerprint": answer.get("system_fingerprint")}

    def _field(self, answer: Any, key: str) -> Any:
        if not isinstance(answer, dict) or key not in answer:
            raise AddressError(f"{self.name}: its answer has no {key!r}; is this a vLLM server?")
        return answer[key]


@dataclass(frozen=True, slots=True, eq=False)
class VllmEngine:
    """A model that a vLLM server runs. `setup`: the `system_fingerprint` of the server that was described."""

    model: ModelDescription
    tokenizer: ByteTokenizer
    server: VllmServer
    setup: object

    def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
        """Log-probabilities as vLLM computes them, in batches that it makes up itself.

        Raises:
            InvalidInput, TooLarge: the request is not one that this server can answer.
            Mismatch: another server, or one with other settings, answers than the one described.
            ModelError: its answer holds no log-probabilities.
            Unavailable: the server is overloaded or gone.
        """
        texts = remote.prepared(documents, top_k, self.model, self.tokenizer)
        pool = ThreadPoolExecutor(_REQUESTS_AT_ONCE)
        try:
            answers = list(pool.map(lambda d, t: self._answer(d, t, top_k), documents, texts))
        finally:
            # After a failure the requests that have not begun are of no use.
            pool.shutdown(cancel_futures=True)
        remote.check_width(answers, self.model)
        return answers

    def _answer(self, document: Document, text: TokenizedText, top_k: int) -> Distributions:
        ids = text.ids_T.tolist()
        choice = self.server.complete(ids, top_k)
        if choice.get("prompt_token_ids") not in (None, ids):
            raise Mismatch(f"document {document.id!r}: {self.server.name} read other tokens than were sent")
        try:
            positions = [_prompt_entries(position) for position in choice["prompt_logprobs"][1:]]
            last = _generated_entries(choice["logprobs"]["top_logprobs"][0])
            following = [position[index] for position, index in zip(positions, ids[1:], strict=True)]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"document {document.id!r}: {self.server.name} gives no log-probabilities of all prompt tokens "
                f"({error!r}); is it vLLM with `prompt_logprobs`?"
            ) from error
        remote.check_setup(self.server.name, {"system_fingerprint": self.setup}, choice)
        rows = [*(position.items() for position in positions), last.items()]
        return remote.distributions(document, text, rows, following, top_k)


def _prompt_entries(position: dict[str, dict[str, Any]]) -> dict[int, float]:
    """Id → log-probability: the prompt's own token, and the best ones."""
    return {int(index): _log_prob(entry["logprob"]) for index, entry in position.items()}


def _generated_entries(position: dict[str, float]) -> dict[int, float]:
    """Id → log-probability, of keys "token_id:17": the generated token, and the best ones."""
    return {int(key.removeprefix("token_id:")): _log_prob(value) for key, value in position.items()}


def _log_prob(value: float) -> float:
    return float("-inf") if value <= _ZERO else float(value)


def open_vllm(
    url: str,
    tokenizer: str | None = None,
    token: str | None = None,
    *,
    name: str | None = None,
    limits: Limits | None = None,
    same_as: str | None = None,
    timeout_s: float = 300.0,
) -> VllmEngine:
    """The engine of the vLLM server at `url`; without `tokenizer` it is read from the model that the server names.

    `same_as`: the weights' fingerprint of a source that it answers like, as its user says.

    Raises:
        ModelError: the tokenizer can't be had.
        Mismatch: the tokenizer is not the server's.
        Unavailable, AddressError, ConfigError: the server does not answer, is another one, or wants a token.
    """
    http = HttpServer(f"vllm:{url}", url, token, timeout_s)
    version, card = _version(http), _card(http)
    server = VllmServer(http, card["id"])
    folder = remote.read_tokenizer_folder(tokenizer or remote.hub_id(card.get("root") or card["id"]))
    bytes_of = remote.tokenizer_of(folder, server.tokenize(remote.PROBE), server.name)
    first = bytes_of.tokenize(remote.PROBE).ids_T[:2].tolist()
    allowed = limits or Limits()
    most = min(allowed.max_top_k, folder.vocabulary_size)
    top_k = remote.largest_accepted(lambda n: server.complete(first, n), most)
    if top_k == 0:
        raise ModelError(f"{server.name}: it gives no log-probabilities; start it with --max-logprobs 64 or more")
    setup = server.complete(first, 1)["system_fingerprint"]
    told = {"root": card.get("root"), "version": version, "setup": setup}
    description = ModelDescription(
        name=name or str(card["id"]).rstrip("/").rpartition("/")[2],
        revision=None,
        weights_fingerprint=same_as or remote.fingerprint_of(engine="vllm", id=card["id"], **told),
        tokenizer_fingerprint=bytes_of.fingerprint,
        architecture=f"vllm {version}",
        vocabulary_size=folder.vocabulary_size,
        # One token is generated behind the longest prompt.
        context_length=int(card["max_model_len"]) - 1,
        dtype=remote.UNKNOWN_DTYPE,
        prefix_ids=tuple(bytes_of.prefix_ids.tolist()),
        limits=replace(allowed, max_top_k=top_k),
    )
    return VllmEngine(description, bytes_of, server, setup)


def _version(http: HttpServer) -> str:
    found = http.get("/version")
    if not isinstance(found, dict) or not isinstance(found.get("version"), str):
        raise AddressError(f"{http.name}: /version names none; is this a vLLM server?")
    return str(found["version"])


def _card(http: HttpServer) -> dict[str, Any]:
    """The model that the server serves; adapters beside it are left alone."""
    found = http.get("/v1/models")
    cards = found.get("data") if isinstance(found, dict) else None
    whole = [card for card in cards or () if isinstance(card, dict) and card.get("parent") is None]
    if not whole or not isinstance(whole[0].get("max_model_len"), int):
        raise AddressError(f"{http.name}: /v1/models names no model with its max_model_len; is this a vLLM server?")
    return dict(whole[0])

"""What `--target` and `--source` may name: a model, a source server, an inference server, or a tokenizer's file.

Opening goes from cheap to dear, for all participants at each step: names, then addresses, then tokenizers, and the
models' weights only when the text is known to be readable by everybody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from fusery.core.definition import prefix_ids, steady
from fusery.core.rules import Dtype
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.core.topk import TopK
from fusery.errors import AddressError, FuseryError, InvalidInput, Mismatch, ModelError, Unavailable
from fusery.json_text import parse_json
from fusery.models.checkpoint import check_checkpoint, inspect_checkpoint, is_folder
from fusery.run_config import EngineKind, split_engine
from fusery.source.api import Distributions, Document, ModelDescription, check_ids
from fusery.source.call import without_address
from fusery.source.client import SourceClient, client_from_settings
from fusery.source.engines.by_name import check_engine, load_engine

_ADDRESS = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")
_FORMS = (
    "expected a model's folder or Hub id, host:port of a source server, tgi:URL, vllm:URL, or a tokenizer's JSON file"
)
_KNOCK_S, _TOKENIZER_S, _ANSWER_S = 3.0, 120.0, 600.0


class Kind(StrEnum):
    """Where a participant's tokens come from."""

    MODEL = "model"
    SERVED = "served"
    ASKED = "asked"
    TOKENIZER = "tokenizer"


@dataclass(frozen=True, slots=True)
class Participant:
    """A target or source as it was given; `option` names it in messages.

    `tokenizer`: the folder or Hub id of the tokenizer of an inference server's model, where that was given.
    """

    option: str
    given: str
    kind: Kind
    tokenizer: str | None = None

    def error(self, kind: type[FuseryError], problem: object) -> FuseryError:
        return kind(f"{self.option} {self.given}: {' '.join(str(problem).split())}")


@dataclass(frozen=True, slots=True)
class Opened:
    """A participant with its tokenizer. `context_length` None: unlimited; `compute` None: it has no distributions."""

    participant: Participant
    name: str
    tokenizer: ByteTokenizer
    context_length: int | None = None
    compute: Callable[[str, int], Distributions] | None = None


def named(option: str, given: str, tokenizer: str | None = None) -> Participant:
    """What `given` means, told by its form and by what there is on this machine; `tokenizer`: of inference servers.

    Raises:
        InvalidInput: it has no form of a participant, or names a file or folder that is not there or not whole.
    """
    path = Path(given).expanduser()
    if split_engine(given)[0] is not EngineKind.TRANSFORMERS:
        check_engine(given, tokenizer=tokenizer)
        return Participant(option, given, Kind.ASKED, tokenizer)
    if path.is_file():
        return Participant(option, given, Kind.TOKENIZER)
    if path.suffix == ".json":
        raise InvalidInput(f"{option} {given}: no such file; {_FORMS}")
    if not path.exists() and (address := _ADDRESS.fullmatch(given)):
        if not 1 <= int(address[2]) <= 65_535:
            raise AddressError(f"{option} {given}: the port is {address[2]}, expected 1 to 65535")
        return Participant(option, given, Kind.SERVED)
    try:
        check_checkpoint(given)
    except ModelError as error:
        hint = ""
        if (path / "tokenizer.json").is_file():
            hint = f"; for its tokens alone give {Path(given) / 'tokenizer.json'}"
        elif not path.exists():
            hint = f"; {_FORMS}"
        raise ModelError(f"{option} {given}: {error}{hint}") from error
    return Participant(option, given, Kind.MODEL)


def knock(participant: Participant) -> None:
    """Nothing, if the participant is no server, or one that answers within seconds.

    Raises:
        AddressError: it does not answer.
    """
    if participant.kind is Kind.SERVED:
        _described(participant)


def _described(participant: Participant) -> ModelDescription:
    try:
        with _client(participant, _KNOCK_S, retry_for_s=_KNOCK_S) as client:
            return client.model()
    except (Unavailable, AddressError) as error:
        raise participant.error(
            AddressError, f"no source server answers: {without_address(error)}; start one with fusery serve-source"
        ) from error


def _client(participant: Participant, timeout_s: float, retry_for_s: float) -> SourceClient:
    return client_from_settings(participant.given, timeout_s=timeout_s, retry_for_s=retry_for_s)


def opened(participant: Participant, dtype: Dtype) -> Opened:
    """The participant with its tokenizer, its weights not yet read; `dtype` is for a model that is loaded here.

    Raises:
        ModelError: the tokenizer can't be had.
        AddressError: the server does not answer any more.
    """
    return _OPENERS[participant.kind](participant, dtype)


def _open_model(participant: Participant, dtype: Dtype) -> Opened:
    try:
        checkpoint = inspect_checkpoint(participant.given)
    except ModelError as error:
        hint = "" if is_folder(participant.given) else f"; and there is no folder {participant.given}"
        raise participant.error(ModelError, f"{error}{hint}") from error

    def compute(text: str, top_k: int) -> Distributions:
        from fusery.source.engines.transformers import load_engine

        engine = load_engine(participant.given, None, dtype)
        return engine.compute([Document("text", text)], min(top_k, engine.model.vocabulary_size))[0]

    name = Path(participant.given).name
    return Opened(participant, name, checkpoint.tokenizer, checkpoint.context_length, compute)


def _open_served(participant: Participant, _: Dtype) -> Opened:
    model = _described(participant)
    # A large vocabulary takes longer than any other answer.
    with _client(participant, _TOKENIZER_S, _KNOCK_S) as client:
        tokenizer = client.tokenizer()

    def compute(text: str, top_k: int) -> Distributions:
        with _client(participant, _ANSWER_S, _KNOCK_S) as client:
            k = min(top_k, model.vocabulary_size, model.limits.max_top_k)
            [answer] = client.compute([Document("text", text)], k, "float32", model.fingerprint)
            check_ids(answer, model.vocabulary_size, participant.given)
            return answer

    return Opened(participant, model.name, tokenizer, model.context_length, compute)


def _open_asked(participant: Participant, _: Dtype) -> Opened:
    try:
        engine = load_engine(participant.given, tokenizer=participant.tokenizer)
    except Unavailable as error:
        raise participant.error(AddressError, f"no inference server answers: {error}") from error

    def compute(text: str, top_k: int) -> Distributions:
        k = min(top_k, engine.model.vocabulary_size, engine.model.limits.max_top_k)
        return engine.compute([Document("text", text)], k)[0]

    return Opened(participant, engine.model.name, engine.tokenizer, engine.model.context_length, compute)


def _open_tokenizer(participant: Participant, _: Dtype) -> Opened:
    path = Path(participant.given).expanduser()
    try:
        fields = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise participant.error(ModelError, f"can't be read as JSON: {error}; {_FORMS}") from error
    name = path.absolute().parent.name if path.name == "tokenizer.json" else path.stem
    try:
        return Opened(participant, name or path.stem, _tokenizer_of(fields, name))
    except (ModelError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise participant.error(
            ModelError, f"holds no tokenizer ({error}); expected tokenizer.json, or a definition that fusery wrote"
        ) from error


def _tokenizer_of(fields: Any, name: str) -> ByteTokenizer:
    """The tokenizer of a tokenizer.json, with the BOS habit that its post-processor shows, or of a definition."""
    if "backend" in fields:
        return ByteTokenizer.from_definition(json.dumps(fields))
    definition = steady(fields)
    return ByteTokenizer(definition, prefix_ids(definition, name), name)


_OPENERS: dict[Kind, Callable[[Participant, Dtype], Opened]] = {
    Kind.MODEL: _open_model,
    Kind.SERVED: _open_served,
    Kind.ASKED: _open_asked,
    Kind.TOKENIZER: _open_tokenizer,
}


def tokens_of(opened: Opened, text: str) -> TokenizedText:
    """The participant's tokens of `text`.

    Raises:
        InvalidInput: the tokenizer makes no token of the text.
        ModelError: the tokenizer does not spell the text.
    """
    try:
        tokenized = opened.tokenizer.tokenize(text)
    except ModelError as error:
        raise opened.participant.error(ModelError, error) from error
    if not len(tokenized.ids_T):
        raise opened.participant.error(InvalidInput, "it reads the text as no token at all; give another text")
    return tokenized


def check_context(source: Opened, tokenized: TokenizedText) -> None:
    """Nothing, if the source's model can read so many tokens. A target is not asked to.

    Raises:
        InvalidInput: the text has more tokens than the model's context.
    """
    count, limit = len(tokenized.ids_T), source.context_length
    if limit is not None and count > limit:
        raise source.participant.error(
            InvalidInput, f"the text has {count} tokens, the model's context holds {limit}; give a shorter text"
        )


def distributions_of(opened: Opened, text: str, tokenized: TokenizedText, top_k: int) -> TopK | None:
    """The source's `top_k` entries after each of its tokens; None if it has no distributions.

    Raises:
        Mismatch: it tokenised the text in another way than its tokenizer does here.
    """
    if opened.compute is None:
        return None
    answer = opened.compute(text, top_k)
    if not np.array_equal(answer.token_ids_T, tokenized.ids_T):
        raise opened.participant.error(
            Mismatch, "it tokenises the text differently there; install the same version of tokenizers on both sides"
        )
    return answer.top

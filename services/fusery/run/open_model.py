"""One opener for every place where people name a model: a folder, a server's address, or a tokenizer's file.

Opening goes from cheap to dear: the name, then the address, then the tokenizer. A model's weights are read when its
distributions are asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fusery.config.run import EngineKind, split_engine
from fusery.core.definition import prefix_ids, steady
from fusery.core.rules import Dtype
from fusery.core.tokens import ByteTokenizer
from fusery.models.checkpoint import check_checkpoint, is_folder
from fusery.models.inspect import inspect_checkpoint
from fusery.runtime.errors import AddressError, FuseryError, InvalidInput, ModelError, Unavailable
from fusery.runtime.text.json import parse_json
from fusery.source.address import parse_address
from fusery.source.api import Distributions, Document, Engine, Limits, ModelDescription
from fusery.source.call import without_address
from fusery.source.client import SourceClient, client_from_settings
from fusery.source.engines.by_name import check_engine, load_engine

_ADDRESS = re.compile(r"dns:///\S+|(?:[\w.-]+|\[[0-9a-fA-F:.%]+\]):\d{1,5}(?:,\S*)?")
_FORMS = (
    "expected a model's folder or Hub id, host:port of a source server, tgi:URL, vllm:URL, or a tokenizer's JSON file"
)
_RETRY_S = 10.0
_NO_LIMITS = Limits(max_top_k=1 << 20)
"""Of a model in this process: no message limits k, so the whole vocabulary can be summed."""


class Kind(StrEnum):
    """Where tokens and distributions come from: a model loaded here, a source server, an inference server, a file."""

    MODEL = "model"
    SERVED = "served"
    ASKED = "asked"
    TOKENIZER = "tokenizer"


@dataclass(frozen=True, slots=True)
class Named:
    """What was given, and the option that messages name.

    `tokenizer`, `same_as`: of an inference server, as in a run's YAML.
    """

    option: str
    given: str
    kind: Kind
    tokenizer: str | None = None
    same_as: str | None = None

    def error(self, kind: type[FuseryError], problem: object) -> FuseryError:
        return kind(f"{self.option} {self.given}: {' '.join(str(problem).split())}")

    def why_silent(self, error: FuseryError) -> str:
        """Why the server does not answer, without the address that the sentence has before."""
        has_it = self.kind is Kind.SERVED and isinstance(error, Unavailable) and "," not in self.given
        return without_address(error) if has_it else str(error)


@dataclass(frozen=True, slots=True)
class Opened:
    """A model with its tokenizer. `context_length` None: unlimited; `load` None: it has no distributions."""

    named: Named
    name: str
    tokenizer: ByteTokenizer
    context_length: int | None = None
    load: Callable[[], Engine] | None = None

    def source(self) -> Engine:
        """What gives its distributions; reads the weights of a model that is loaded here.

        Raises:
            InvalidInput: it is a tokenizer's file.
        """
        if self.load is None:
            raise self.named.error(InvalidInput, "a tokenizer's file gives no distributions; name a model or a server")
        return self.load()


class ServedSource:
    """A source server, asked with float32 log-probabilities."""

    def __init__(self, client: SourceClient) -> None:
        self._client = client
        self.model: ModelDescription = client.model()
        self.tokenizer: ByteTokenizer = client.tokenizer()

    def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
        return self._client.compute(documents, top_k, "float32", self.model.fingerprint)


def named(option: str, given: str, tokenizer: str | None = None) -> Named:
    """What `given` means, told by its form and by what there is on this machine; `tokenizer`: of inference servers.

    `vllm:http://gpu:8000` is an inference server, `localhost:50051` a source server, an existing file a tokenizer,
    anything else a model.

    Raises:
        InvalidInput: it has none of these forms, or names a file or folder that is not there or not whole.
    """
    path = Path(given).expanduser()
    kind, place = split_engine(given)
    if kind is not EngineKind.TRANSFORMERS:
        check_engine(given, tokenizer=tokenizer)
        return Named(option, given, Kind.ASKED, tokenizer)
    if path.is_file():
        return Named(option, given, Kind.TOKENIZER)
    if path.suffix == ".json":
        raise InvalidInput(f"{option} {given}: no such file; {_FORMS}")
    if not path.exists() and _ADDRESS.fullmatch(given):
        try:
            parse_address(given)
        except AddressError as error:
            raise AddressError(f"{option} {given}: {error}") from error
        return Named(option, given, Kind.SERVED)
    try:
        check_checkpoint(place)
    except ModelError as error:
        hint = ""
        if (path / "tokenizer.json").is_file():
            hint = f"; for its tokens alone give {Path(given) / 'tokenizer.json'}"
        elif not path.exists():
            hint = f"; {_FORMS}"
        raise ModelError(f"{option} {given}: {error}{hint}") from error
    return Named(option, given, Kind.MODEL)


def knock(named: Named, timeout_s: float = 3.0, retry_for_s: float = 3.0) -> None:
    """Returns if `named` is a source server that answers, or no source server.

    Raises:
        Unavailable, AddressError: it does not answer.
    """
    if named.kind is Kind.SERVED:
        with client_from_settings(named.given, timeout_s=timeout_s, retry_for_s=retry_for_s) as client:
            client.model()


@contextmanager
def opened(named: Named, dtype: Dtype = Dtype.FLOAT32) -> Iterator[Opened]:
    """The model with its tokenizer, its weights not yet read; `dtype` is for a model that is loaded here.

    Raises:
        ModelError: the tokenizer can't be had.
        Unavailable, AddressError: the server does not answer.
    """
    if named.kind is Kind.SERVED:
        with client_from_settings(named.given, retry_for_s=_RETRY_S) as client:
            served = ServedSource(client)
            yield Opened(named, served.model.name, served.tokenizer, served.model.context_length, lambda: served)
    elif named.kind is Kind.ASKED:
        engine = load_engine(named.given, tokenizer=named.tokenizer, same_as=named.same_as)
        yield Opened(named, engine.model.name, engine.tokenizer, engine.model.context_length, lambda: engine)
    elif named.kind is Kind.MODEL:
        yield _model(named, dtype)
    else:
        yield _tokenizer_file(named)


def _model(named: Named, dtype: Dtype) -> Opened:
    place = split_engine(named.given)[1]
    try:
        checkpoint = inspect_checkpoint(place)
    except ModelError as error:
        hint = "" if is_folder(place) else f"; and there is no folder {place}"
        raise named.error(ModelError, f"{error}{hint}") from error
    return Opened(
        named,
        Path(place).name,
        checkpoint.tokenizer,
        checkpoint.context_length,
        lambda: load_engine(place, None, dtype, limits=_NO_LIMITS),
    )


def _tokenizer_file(named: Named) -> Opened:
    """The tokenizer of a tokenizer.json, with the BOS habit that its post-processor shows, or of a definition."""
    path = Path(named.given).expanduser()
    try:
        fields = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise named.error(ModelError, f"can't be read as JSON: {error}; {_FORMS}") from error
    name = path.absolute().parent.name if path.name == "tokenizer.json" else path.stem
    try:
        if "backend" in fields:
            tokenizer = ByteTokenizer.from_definition(json.dumps(fields))
        else:
            definition = steady(fields)
            tokenizer = ByteTokenizer(definition, prefix_ids(definition, name), name)
    except (ModelError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise named.error(
            ModelError, f"holds no tokenizer ({error}); expected tokenizer.json, or a definition that fusery wrote"
        ) from error
    return Opened(named, name or path.stem, tokenizer)

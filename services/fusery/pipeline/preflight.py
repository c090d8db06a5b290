"""Everything that can be found wrong before any work: models, corpora, addresses, settings that don't fit.

Two looks. `open_run` reads files only and takes a second or two: it is all that a finished run or `status`
needs. `check_run` asks transformers about the checkpoints and knocks at every address; it comes before work.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fusery.core.tokens import ByteTokenizer
from fusery.errors import AddressError, ConfigError, CorpusError, Mismatch, ModelError, Unavailable
from fusery.formats.store import Store
from fusery.models.checkpoint import Checkpoint, inspect_checkpoint
from fusery.pipeline.conformance import ServedSource
from fusery.pipeline.corpus import Corpora, read_corpora
from fusery.registry.tracking import check_tracking, default_tracking_uri
from fusery.run_config import EngineKind, ModelSpec, RunConfig, SourceSpec, split_engine
from fusery.run_file import RunFile, read_run_file
from fusery.settings import settings
from fusery.source.client import client_from_settings
from fusery.source.conformance import quick_test, refuse_failed
from fusery.source.engines import check_engine, load_engine

_IDENTITY_FILES = (
    *("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json"),
    *("special_tokens_map.json", "spiece.model", "tekken.json", "vocab.json", "merges.txt"),
)
_TOKENISED_DOCUMENTS = 64


@dataclass(frozen=True, slots=True)
class Run:
    """A run whose input is known: its YAML, corpora and store. `run_id` covers everything that decides the result."""

    file: RunFile
    store: Store
    corpora: Corpora
    run_id: str

    @property
    def config(self) -> RunConfig:
        return self.file.config

    @property
    def name(self) -> str:
        """The run's folder in the store."""
        return f"runs/{self.run_id}"

    @property
    def folder(self) -> Path:
        return self.store.local_path(self.name)

    @property
    def broker_url(self) -> str | None:
        """The broker to use; None: an embedded one."""
        given = settings().broker_url
        return given.get_secret_value() if given is not None else self.config.services.broker_url

    @property
    def tracking_uri(self) -> str:
        given = settings().tracking_uri or self.config.services.tracking_uri
        return given or default_tracking_uri(self.store.local_path("mlflow"))


def open_run(path: Path) -> Run:
    """The run of a YAML file, its corpora read. No network, no import of torch.

    Raises:
        ConfigError, ModelError, CorpusError: what is wrong, with its place.
    """
    file = read_run_file(path)
    config = file.config
    for spec in (config.target, *config.sources):
        if not _is_remote(spec):
            check_engine(file.model(spec.model), spec.revision, tokenizer_of(file, spec))
    corpora = read_corpora(file)
    store = Store(settings().store or file.store)
    identity = [config.digest(), corpora.train.digest, corpora.held_out.digest]
    identity += [_identity(file, spec) for spec in (config.target, *config.sources)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return Run(file, store, corpora, f"{config.name}-{digest[:10]}")


def _is_remote(spec: ModelSpec) -> bool:
    """Whether the model is served elsewhere, so that its files need not be on this machine."""
    return isinstance(spec, SourceSpec) and spec.address is not None


def tokenizer_of(file: RunFile, spec: ModelSpec) -> str | None:
    """The folder or Hub id of the tokenizer that a source behind an inference server is given."""
    if not isinstance(spec, SourceSpec) or spec.tokenizer is None:
        return None
    return file.model(spec.tokenizer)


def _is_asked(spec: ModelSpec) -> bool:
    """Whether an inference server computes the source's distributions, behind a source server of the run's own."""
    return not _is_remote(spec) and split_engine(spec.model)[0] is not EngineKind.TRANSFORMERS


def _identity(file: RunFile, spec: ModelSpec) -> str:
    """What tells this checkpoint from another one: its bytes where it lies here, else its name and revision."""
    folder = Path(file.model(spec.model)) if not _is_remote(spec) else None
    if folder is None or not folder.is_dir():
        tokenizer = tokenizer_of(file, spec)
        return f"{spec.model}@{spec.revision}" if tokenizer is None else f"{spec.model}@{tokenizer}"
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in _IDENTITY_FILES or path.suffix == ".safetensors":
            with path.open("rb") as stream:
                content.update(hashlib.file_digest(stream, "sha256").digest())
    return content.hexdigest()


def check_run(run: Run) -> Checkpoint:
    """Looks at models, contexts and addresses; the target's checkpoint comes back, for its tokenizer.

    Raises:
        ModelError, ConfigError, CorpusError, AddressError: what is wrong, with its place and a remedy.
    """
    _check_store(run)
    if run.config.registry.enabled:
        check_tracking(run.tracking_uri, timeout_s=5.0)
    if run.broker_url is not None:
        check_broker(run.broker_url)
    _check_tls(run)
    for source in run.config.sources:
        if source.address is not None:
            _check_served(run, source, source.address)
        elif _is_asked(source):
            _check_asked(run, source)
    target = _inspect("target", run.file, run.config.target)
    _check_sequence_length(run, target)
    _check_documents(run, "a training sequence", target.tokenizer, run.config.training.sequence_length)
    for source in run.config.sources:
        if source.address is None and not _is_asked(source):
            checkpoint = _inspect(f"source {source.name}", run.file, source)
            _check_k(run, source.name, checkpoint.vocabulary_size)
            _check_documents(run, f"source {source.name}", checkpoint.tokenizer, checkpoint.context_length)
    return target


def _check_tls(run: Run) -> None:
    """Source servers that a run starts itself listen on loopback without TLS, and a client speaks one or the other."""
    ours = [source.name for source in run.config.sources if source.address is None]
    if settings().source_tls_ca_file is not None and ours:
        raise ConfigError(
            f"{run.file.path}: FUSERY_SOURCE_TLS_CA_FILE is set, so every source needs the address of a server with "
            f"TLS, and source {ours[0]} has none; start it with fusery serve-source, or unset the variable"
        )


def _check_sequence_length(run: Run, target: Checkpoint) -> None:
    if run.config.training.sequence_length > target.context_length:
        raise ConfigError(
            f"{run.file.path}: training.sequence_length is {run.config.training.sequence_length}, the target's context "
            f"holds {target.context_length} tokens; make it shorter"
        )


def _inspect(role: str, file: RunFile, spec: ModelSpec) -> Checkpoint:
    model = file.model(spec.model)
    try:
        return inspect_checkpoint(model, spec.revision)
    except ModelError as error:
        message = " ".join(str(error).split())
        hint = "" if Path(model).is_dir() else f" And there is no folder {file.resolve(model)}."
        raise ModelError(f"{role}: {message}{hint}") from error


def _check_documents(run: Run, role: str, tokenizer: ByteTokenizer, limit: int) -> None:
    """The documents with the most tokens, as far as their bytes tell, fit `limit` tokens and are spelled by them."""
    documents = [*run.corpora.train.documents, *run.corpora.held_out.documents]
    for document in heapq.nlargest(_TOKENISED_DOCUMENTS, documents, key=lambda document: likely_tokens(document.text)):
        try:
            tokens = len(tokenizer.tokenize(document.text).ids_T)
        except ModelError as error:
            raise ModelError(f"document {document.doc_id}, {role}: {error}") from error
        if tokens > limit:
            raise CorpusError(
                f"document {document.doc_id} has {tokens} tokens, {role} holds at most {limit}; lower "
                f"corpus.max_document_bytes (now {run.config.corpus.max_document_bytes})"
            )


def likely_tokens(text: str) -> int:
    """Orders texts by how many tokens they may have: bytes, non-ASCII ones three times, for they merge less."""
    if text.isascii():
        return len(text)
    return 3 * len(text.encode()) - 2 * len(text.encode("ascii", "ignore"))


def _check_k(run: Run, name: str, largest: int) -> None:
    if run.config.capture.top_k > largest:
        raise ConfigError(
            f"{run.file.path}: capture.top_k is {run.config.capture.top_k}, source {name} gives at most {largest} "
            "entries (its vocabulary, or its server's limit); make it smaller"
        )


def _check_served(run: Run, source: SourceSpec, address: str) -> None:
    """The source server answers, and the documents fit its model."""
    try:
        with client_from_settings(address, timeout_s=5.0, retry_for_s=5.0) as client:
            model = client.model()
    except (Unavailable, AddressError) as error:
        raise AddressError(
            f"{run.file.path}: source {source.name}: no source server answers at {address}: {error}"
        ) from error
    except Mismatch as error:
        raise Mismatch(f"{run.file.path}: source {source.name}: {error}") from error
    _check_k(run, source.name, min(model.vocabulary_size, model.limits.max_top_k))
    # A large vocabulary takes longer than any other answer.
    with client_from_settings(address, timeout_s=120.0, retry_for_s=5.0) as client:
        served = ServedSource(client)
        _check_documents(run, f"source {source.name}", served.tokenizer, model.context_length)
        refuse_failed(quick_test(served), f"{run.file.path}: source {source.name} at {address}")


def _check_asked(run: Run, source: SourceSpec) -> None:
    """The inference server answers as a source must, and the documents fit its model."""
    role = f"source {source.name}"
    try:
        engine = load_engine(source.model, tokenizer=tokenizer_of(run.file, source))
        _check_k(run, source.name, engine.model.limits.max_top_k)
        refuse_failed(quick_test(engine), f"{run.file.path}: {role}")
    except (Unavailable, AddressError) as error:
        raise AddressError(f"{run.file.path}: {role}: no inference server answers: {error}") from error
    _check_documents(run, role, engine.tokenizer, engine.model.context_length)


def _check_store(run: Run) -> None:
    # Checkpoints and reports need a folder; a bucket is refused here and not after the hops.
    run.store.local_path(run.name)
    try:
        run.store.write_note(f"{run.name}/run.json", {"run_id": run.run_id, "file": run.file.path.name})
    except OSError as error:
        raise ConfigError(
            f"store {run.store.url}: can't be written: {error}; set services.store or FUSERY_STORE"
        ) from error


def check_broker(url: str) -> None:
    """Nothing, if a Redis-protocol server answers at `url` within 5 s.

    Raises:
        AddressError: it does not; the message has no password in it.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    shown = _without_secrets(url)
    try:
        # By default it tries four times, with seconds in between.
        with redis.Redis.from_url(
            url, socket_connect_timeout=5, socket_timeout=5, retry=Retry(NoBackoff(), 0)
        ) as asked:
            asked.ping()
    except ValueError:
        # Not `from error`: its text may have the password.
        raise AddressError(f"broker {shown}: not an address of a Redis server; expected redis://host:port/0") from None
    except redis.AuthenticationError as error:
        raise AddressError(
            f"broker {shown} refuses user name or password; set FUSERY_BROKER_URL to redis://user:password@host:port/0"
        ) from error
    except redis.RedisError as error:
        raise AddressError(
            f"broker {shown} does not answer: {error}; start it, or leave it out for an embedded one"
        ) from error


def _without_secrets(url: str) -> str:
    """Scheme, host and port, as far as there are any: passwords stand in every other part, and in odd places."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "(unreadable address)"
    return f"{parts.scheme}://{parts.hostname or ''}{port}"

"""Everything that can be found wrong before any work: models, corpora, addresses, settings that don't fit.

Two looks. `open_run` reads files only and takes a second or two: it is all that a finished run or `status`
needs. `check_run` asks transformers about the checkpoints and knocks at every address; it comes before work.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from fusery.errors import AddressError, ConfigError, CorpusError, FuseryError, ModelError
from fusery.formats.store import Store
from fusery.models.checkpoint import Checkpoint, check_checkpoint, inspect_checkpoint
from fusery.pipeline.corpus import Corpora, read_corpora
from fusery.registry.tracking import check_tracking, default_tracking_uri
from fusery.run_config import ModelSpec, RunConfig, SourceSpec
from fusery.run_file import RunFile, read_run_file
from fusery.settings import settings
from fusery.source.client import SourceClient, read_token

_IDENTITY_FILES = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")


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
            check_checkpoint(file.model(spec.model), spec.revision)
    corpora = read_corpora(file)
    store = Store(settings().store or file.store)
    identity = [config.digest(), corpora.train.digest, corpora.held_out.digest]
    identity += [_identity(file, spec) for spec in (config.target, *config.sources)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return Run(file, store, corpora, f"{config.name}-{digest[:10]}")


def _is_remote(spec: ModelSpec) -> bool:
    """Whether the model is served elsewhere, so that its files need not be on this machine."""
    return isinstance(spec, SourceSpec) and spec.address is not None


def _identity(file: RunFile, spec: ModelSpec) -> str:
    """What tells this checkpoint from another one: its bytes where it lies here, else its name and revision."""
    name = spec.model if _is_remote(spec) else file.model(spec.model)
    if not Path(name).is_dir():
        return f"{name}@{spec.revision}"
    content = hashlib.sha256()
    for path in sorted(Path(name).iterdir()):
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
    target = _inspect("target", run.file, run.config.target)
    _check_sequence_length(run, target)
    _check_documents(run, "a training sequence", target, run.config.training.sequence_length)
    for source in run.config.sources:
        if source.address is not None:
            _check_address(run, source)
        else:
            checkpoint = _inspect(f"source {source.name}", run.file, source)
            _check_documents(run, f"source {source.name}", checkpoint, checkpoint.context_length)
            _check_k(run, source.name, checkpoint.vocabulary_size)
    return target


def _check_sequence_length(run: Run, target: Checkpoint) -> None:
    if run.config.training.sequence_length > target.context_length:
        raise ConfigError(
            f"{run.file.path}: training.sequence_length is {run.config.training.sequence_length}, the target's context "
            f"holds {target.context_length} tokens; make it shorter"
        )


def _inspect(role: str, file: RunFile, spec: ModelSpec) -> Checkpoint:
    try:
        return inspect_checkpoint(file.model(spec.model), spec.revision)
    except ModelError as error:
        raise ModelError(f"{role}: {error}") from error


def _check_documents(run: Run, role: str, checkpoint: Checkpoint, limit: int) -> None:
    """The longest documents fit `limit` tokens and the tokenizer spells them."""
    documents = [*run.corpora.train.documents, *run.corpora.held_out.documents]
    longest = sorted(documents, key=lambda document: -len(document.text.encode()))[:64]
    for document, text in zip(
        longest, checkpoint.tokenizer.tokenize_batch([document.text for document in longest]), strict=True
    ):
        if len(text.ids_T) > limit:
            raise CorpusError(
                f"document {document.doc_id} has {len(text.ids_T)} tokens, {role} holds at most {limit}; lower "
                f"corpus.max_document_bytes (now {run.config.corpus.max_document_bytes})"
            )


def _check_k(run: Run, name: str, vocabulary_size: int) -> None:
    if run.config.capture.top_k > vocabulary_size:
        raise ConfigError(
            f"{run.file.path}: capture.top_k is {run.config.capture.top_k}, source {name} has only {vocabulary_size} "
            "tokens; make it smaller"
        )


def _check_address(run: Run, source: SourceSpec) -> None:
    assert source.address is not None, "called for sources with an address"
    try:
        token = read_token(settings().source_token_file)
        with SourceClient(source.address, token=token, timeout_s=5.0, retry_for_s=5.0) as client:
            model = client.model()
    except FuseryError as error:
        raise AddressError(
            f"{run.file.path}: source {source.name}: no source server answers at {source.address}: {error}"
        ) from error
    _check_k(run, source.name, model.vocabulary_size)


def _check_store(run: Run) -> None:
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

    shown = url.rpartition("@")[2] if "@" in url else url
    try:
        redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5).ping()
    except ValueError as error:
        raise AddressError(f"broker {shown}: not an address of a Redis server; expected redis://host:port/0") from error
    except redis.RedisError as error:
        raise AddressError(
            f"broker {shown} does not answer: {error}; start it, or leave it out for an embedded one"
        ) from error

"""Everything that can be found wrong before any work: models, corpora, addresses, settings that don't fit.

Two looks. `open_run` says which run it is and writes nothing: it is all that a finished run or `status` needs. It
reads texts and weights only where an earlier command has not left in the store and the work folder what stands in them.
`check_run` asks transformers about the checkpoints and knocks at every address; it comes before work.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fusery.errors import AddressError, ConfigError, Mismatch, ModelError, NoAnswer, Unavailable
from fusery.formats.store import Store
from fusery.models.checkpoint import Checkpoint, inspect_checkpoint, stated_context_length
from fusery.models.model_files import model_files
from fusery.pipeline.conformance import ServedSource
from fusery.pipeline.corpus import check_documents, check_requests, open_corpora, publish_corpora
from fusery.pipeline.corpus_files import FileDigests
from fusery.pipeline.corpus_reading import Report, no_report
from fusery.pipeline.corpus_scan import Corpora
from fusery.pipeline.target_checks import check_target
from fusery.registry.names import check_name_early
from fusery.registry.tracking import check_tracking, default_tracking_uri
from fusery.run_config import EngineKind, ModelSpec, RunConfig, SourceSpec, split_engine
from fusery.run_file import RunFile, read_run_file
from fusery.settings import settings
from fusery.source.call import without_address
from fusery.source.client import client_from_settings
from fusery.source.conformance.checks import quick_test, refuse_failed
from fusery.source.engines.by_name import check_engine, load_engine
from fusery.worker.broker import check_broker
from fusery.worker.plan import plan_name

log = logging.getLogger(__name__)

_PAUSE_S, _WORD_S = 2.0, 60.0
"""Between two times that silent servers are asked, and that it is said."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run whose input is known: its YAML, corpora and store. `run_id` covers everything that decides the result.

    `work`: the folder of this machine for what is no artefact: checkpoints, models, reports, logs, MLflow's SQLite.
    """

    file: RunFile
    store: Store
    corpora: Corpora
    run_id: str
    work: Path
    digests: FileDigests

    @property
    def config(self) -> RunConfig:
        return self.file.config

    @property
    def name(self) -> str:
        """The run's folder in the store."""
        return f"runs/{self.run_id}"

    @property
    def folder(self) -> Path:
        """The run's folder of this machine; where the store is a folder and no other is chosen, the same."""
        return self.work / self.name

    @property
    def broker_url(self) -> str | None:
        """The broker to use; None: an embedded one."""
        given = settings().broker_url
        return given.get_secret_value() if given is not None else self.config.services.broker_url

    @property
    def tracking_uri(self) -> str:
        given = settings().tracking_uri or self.config.services.tracking_uri
        return given or default_tracking_uri(self.work / "mlflow")


def open_run(path: Path, report: Report = no_report, folder: Path | None = None, asks_store: bool = True) -> Run:
    """The run of a YAML file. Imports no torch; asks no network but a store's, and a hub for datasets without a commit.

    `report` is told how far texts are read. Relative paths in the YAML are relative to `folder`, or to its own.

    Raises:
        ConfigError, ModelError, CorpusError: what is wrong, with its place.
    """
    file = read_run_file(path, folder)
    config = file.config
    for spec in (config.target, *config.sources):
        if not _is_remote(spec):
            check_engine(file.model(spec.model), spec.revision, tokenizer_of(file, spec))
    store = Store(settings().store or file.store)
    work = _work_folder(file, store)
    corpora = open_corpora(file, store if asks_store else None, report)
    digests = FileDigests(work)
    identity = [config.digest(), corpora.train.digest, corpora.held_out.digest]
    identity += [_identity(file, spec, digests) for spec in (config.target, *config.sources)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return Run(file, store, corpora, f"{config.name}-{digest[:10]}", work, digests)


def publish_input(run: Run, report: Report = no_report) -> None:
    """Puts the corpora into the store, and keeps what was found by reading files, for later commands.

    Raises:
        CorpusError: files were changed while they were read.
    """
    publish_corpora(run.file, run.corpora, run.store, report)
    run.digests.remember()


def _work_folder(file: RunFile, store: Store) -> Path:
    given = settings().work or file.config.services.work
    if given is not None:
        return Path(file.resolve(str(given))) if settings().work is None else Path(given).expanduser().absolute()
    return store.local_path("runs").parent if store.is_local else Path(file.resolve("fusery-work"))


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


def _identity(file: RunFile, spec: ModelSpec, digests: FileDigests) -> str:
    """What tells this checkpoint from another one: its bytes where it lies here, else its name and revision."""
    folder = Path(file.model(spec.model)) if not _is_remote(spec) else None
    if folder is None or not folder.is_dir():
        tokenizer = tokenizer_of(file, spec)
        return f"{spec.model}@{spec.revision}" if tokenizer is None else f"{spec.model}@{tokenizer}"
    parts = [[str(path.relative_to(folder)), digests.digest(path).hex()] for path in model_files(folder)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def check_run(run: Run) -> Checkpoint:
    """Looks at models, contexts and addresses; the target's checkpoint comes back, for its tokenizer.

    Raises:
        ModelError, ConfigError, CorpusError, AddressError: what is wrong, with its place and a remedy.
    """
    _check_store(run)
    _check_tls(run)
    _check_sequence_length(run, stated_context_length(run.file.model(run.config.target.model)))
    _knock(_addresses(run))
    target = _inspect("target", run.file, run.config.target)
    _check_sequence_length(run, target.context_length)
    tokens = run.config.training.sequence_tokens(target.context_length)
    check_documents(run.file, run.corpora, "a training sequence", target.tokenizer, tokens)
    for source in run.config.sources:
        if source.address is None and not _is_asked(source):
            checkpoint = _inspect(f"source {source.name}", run.file, source)
            _check_k(run, source.name, checkpoint.vocabulary_size)
            check_documents(
                run.file, run.corpora, f"source {source.name}", checkpoint.tokenizer, checkpoint.context_length
            )
    if run.store.read_note(plan_name(run.run_id)) is None:
        # A run that has a plan has passed, with the target's very bytes.
        check_target(run.file.model(run.config.target.model), target)
    return target


def check_registered_name(run: Run, target: Checkpoint) -> None:
    """Looks whether a model like `target` may have the run's name in MLflow; before a run begins, not at each start.

    Raises:
        InvalidInput: the name belongs to models of another architecture, or not to fusery's.
        AddressError: MLflow refuses the credentials.
    """
    # It imports mlflow, which takes seconds.
    if run.config.registry.enabled and run.store.read_note(plan_name(run.run_id)) is None:
        check_name_early(run.config.registered_name, target.architecture, run.run_id, run.tracking_uri)


def _addresses(run: Run) -> Iterator[Callable[[], None]]:
    """One check for each address that the run names."""
    broker = run.broker_url
    if run.config.registry.enabled:
        yield lambda: check_tracking(run.tracking_uri, timeout_s=5.0)
    if broker is not None:
        yield lambda: check_broker(broker)
    for source in run.config.sources:
        if source.address is not None:
            yield partial(_check_served, run, source, source.address)
        elif _is_asked(source):
            yield partial(_check_asked, run, source)


def _knock(checks: Iterable[Callable[[], None]]) -> None:
    """Returns if every address answers. All that don't are named at once, for who mends one wants to know the others.

    Raises:
        AddressError: those that don't, nor within FUSERY_WAIT_S seconds where one may be about to.
    """
    patience = _Patience(settings().wait_s)
    silent = _silent(checks)
    while silent and patience.lasts(list(silent.values())):
        silent = _silent(silent)
    if len(silent) == 1:
        raise next(iter(silent.values()))
    if silent:
        raise AddressError("\n".join(map(str, silent.values())))


def _silent(checks: Iterable[Callable[[], None]]) -> dict[Callable[[], None], AddressError]:
    """The checks that fail, each with its error."""
    found: dict[Callable[[], None], AddressError] = {}
    for check in checks:
        try:
            check()
        except AddressError as error:
            found[check] = error
    return found


class _Patience:
    """Waits `whole_s` seconds in all for servers that may be about to come, and says now and then for which."""

    def __init__(self, whole_s: float) -> None:
        self._ends_at = time.monotonic() + whole_s
        self._says_at, self._said = 0.0, ""

    def lasts(self, errors: Sequence[AddressError]) -> bool:
        """Whether it makes sense to ask again, after a pause. A wrong password, say, does not get better."""
        now = time.monotonic()
        if now >= self._ends_at or not all(isinstance(error, NoAnswer) for error in errors):
            return False
        trouble = "; ".join(map(str, errors))
        if now >= self._says_at or trouble != self._said:
            self._says_at, self._said = now + _WORD_S, trouble
            log.warning("waiting up to %.0f s more: %s", self._ends_at - now, trouble)
        time.sleep(min(_PAUSE_S, self._ends_at - now))
        return True


def _check_tls(run: Run) -> None:
    """Source servers that a run starts itself listen on loopback without TLS, and a client speaks one or the other."""
    ours = [source.name for source in run.config.sources if source.address is None]
    if settings().source_tls_ca_file is not None and ours:
        raise ConfigError(
            f"{run.file.path}: FUSERY_SOURCE_TLS_CA_FILE is set, so every source needs the address of a server with "
            f"TLS, and source {ours[0]} has none; start it with fusery serve-source, or unset the variable"
        )


def _check_sequence_length(run: Run, context_length: int) -> None:
    given = run.config.training.sequence_length
    if given is not None and given > context_length:
        raise ConfigError(
            f"{run.file.path}: training.sequence_length is {given}, the target's context holds {context_length} "
            "tokens; make it shorter, or leave it out"
        )


def _inspect(role: str, file: RunFile, spec: ModelSpec) -> Checkpoint:
    model = file.model(spec.model)
    try:
        return inspect_checkpoint(model, spec.revision)
    except ModelError as error:
        message = " ".join(str(error).split())
        hint = "" if Path(model).is_dir() else f" And there is no folder {file.resolve(model)}."
        raise ModelError(f"{role}: {message}{hint}") from error


def _check_k(run: Run, name: str, largest: int) -> None:
    if run.config.capture.top_k > largest:
        raise ConfigError(
            f"{run.file.path}: capture.top_k is {run.config.capture.top_k}, source {name} gives at most {largest} "
            "entries (its vocabulary, or its server's limit); make it smaller"
        )


def _check_served(run: Run, source: SourceSpec, address: str) -> None:
    """The source server answers, and the documents fit its model."""
    try:
        with client_from_settings(address, timeout_s=5.0, retry_for_s=2.0) as client:
            model = client.model()
    except (Unavailable, AddressError) as error:
        kind = NoAnswer if isinstance(error, Unavailable) else AddressError
        said = without_address(error) if isinstance(error, Unavailable) and "," not in address else error
        raise kind(f"{run.file.path}: source {source.name}: no source server answers at {address}: {said}") from error
    except Mismatch as error:
        raise Mismatch(f"{run.file.path}: source {source.name}: {error}") from error
    _check_k(run, source.name, min(model.vocabulary_size, model.limits.max_top_k))
    # A large vocabulary takes longer than any other answer.
    with client_from_settings(address, timeout_s=120.0, retry_for_s=5.0) as client:
        served = ServedSource(client)
        tokens = check_documents(run.file, run.corpora, f"source {source.name}", served.tokenizer, model.context_length)
        check_requests(run.file, run.corpora, source.name, model, tokens)
        refuse_failed(quick_test(served), f"{run.file.path}: source {source.name} at {address}")


def _check_asked(run: Run, source: SourceSpec) -> None:
    """The inference server answers as a source must, and the documents fit its model."""
    role = f"source {source.name}"
    try:
        engine = load_engine(source.model, tokenizer=tokenizer_of(run.file, source), same_as=source.same_as)
        _check_k(run, source.name, engine.model.limits.max_top_k)
        refuse_failed(quick_test(engine), f"{run.file.path}: {role}")
    except (Unavailable, AddressError) as error:
        kind = NoAnswer if isinstance(error, Unavailable) else AddressError
        raise kind(f"{run.file.path}: {role}: no inference server answers: {error}") from error
    tokens = check_documents(run.file, run.corpora, role, engine.tokenizer, engine.model.context_length)
    check_requests(run.file, run.corpora, source.name, engine.model, tokens)


def _check_store(run: Run) -> None:
    if run.store.url.startswith("memory:"):
        raise ConfigError(
            f"store {run.store.url}: every process has a memory of its own; give a folder or an fsspec URL such as "
            "s3://bucket/folder"
        )
    note = f"{run.name}/write-test-{uuid.uuid4().hex[:8]}.json"
    run.store.write_note(note, {"run_id": run.run_id})
    run.store.remove_note(note)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=run.folder).close()
    except OSError as error:
        raise ConfigError(
            f"work folder {run.work}: can't be written: {error}; set services.work or FUSERY_WORK to a folder"
        ) from error

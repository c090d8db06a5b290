"""Which run a YAML file means: the first look, which writes nothing and is all that a finished run or `status` needs.

It reads texts and weights only where an earlier command has not left in the store and the work folder what stands in
them. The second look is `preflight/checks.py`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from fusery.config.file import RunFile, read_run_file
from fusery.config.run import ModelSpec, RunConfig, SourceSpec
from fusery.hops.store.store import Store
from fusery.models.model_files import model_files
from fusery.registry.tracking import default_tracking_uri
from fusery.run.corpus.corpora import open_corpora, publish_corpora
from fusery.run.corpus.files import FileDigests
from fusery.run.corpus.reading import Report, no_report
from fusery.run.corpus.scan import Corpora
from fusery.runtime.settings import settings
from fusery.source.engines.by_name import check_engine


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
    work = store.local_path("runs").parent if store.is_local else Path(file.resolve("fusery-work"))
    if (given := settings().work) is not None:
        work = Path(given).expanduser().absolute()
    elif config.services.work is not None:
        work = Path(file.resolve(str(config.services.work)))
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


def _is_remote(spec: ModelSpec) -> bool:
    """Whether the model is served elsewhere, so that its files need not be on this machine."""
    return isinstance(spec, SourceSpec) and spec.address is not None


def tokenizer_of(file: RunFile, spec: ModelSpec) -> str | None:
    """The folder or Hub id of the tokenizer that a source behind an inference server is given."""
    if not isinstance(spec, SourceSpec) or spec.tokenizer is None:
        return None
    return file.model(spec.tokenizer)


def _identity(file: RunFile, spec: ModelSpec, digests: FileDigests) -> str:
    """What tells this checkpoint from another one: its bytes where it lies here, else its name and revision."""
    folder = Path(file.model(spec.model)) if not _is_remote(spec) else None
    if folder is None or not folder.is_dir():
        tokenizer = tokenizer_of(file, spec)
        return f"{spec.model}@{spec.revision}" if tokenizer is None else f"{spec.model}@{tokenizer}"
    parts = [[str(path.relative_to(folder)), digests.digest(path).hex()] for path in model_files(folder)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

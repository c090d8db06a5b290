"""What can be found wrong before any work: the second look at a run, which asks transformers about its checkpoints.

Mistakes that need no model are found first: the store, settings that don't fit, addresses.
"""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

from fusery.config.file import RunFile
from fusery.config.run import ModelSpec
from fusery.core.rules import Dtype
from fusery.hops.names import plan_name
from fusery.models.checkpoint import is_folder, stated_context_length
from fusery.models.inspect import Checkpoint, inspect_checkpoint, known_architecture
from fusery.models.model_files import weight_files
from fusery.registry.names import check_name_early
from fusery.run.corpus.corpora import check_documents
from fusery.run.open_run import Run
from fusery.run.preflight.addresses import check_addresses, check_k, is_asked
from fusery.runtime.errors import ConfigError, ModelError
from fusery.runtime.settings import settings

_LOADED_BYTES = 1 << 30
"""Of weights that a check loads: seconds. Of a larger target, or one on the Hub, the architecture is asked; its weights
are when a training has loaded them."""


def check_run(run: Run) -> Checkpoint:
    """Looks at models, contexts and addresses; the target's checkpoint comes back, for its tokenizer.

    Raises:
        ModelError, ConfigError, CorpusError, AddressError: what is wrong, with its place and a remedy.
    """
    _check_store(run)
    ours = [source.name for source in run.config.sources if source.address is None]
    if settings().source_tls_ca_file is not None and ours:
        # A source server that a run starts itself listens on loopback without TLS; a client speaks one or the other.
        raise ConfigError(
            f"{run.file.path}: FUSERY_SOURCE_TLS_CA_FILE is set, so every source needs the address of a server with "
            f"TLS, and source {ours[0]} has none; start it with fusery serve-source, or unset the variable"
        )
    _check_sequence_length(run, stated_context_length(run.file.model(run.config.target.model)))
    check_addresses(run)
    target = _inspect("target", run.file, run.config.target)
    _check_sequence_length(run, target.context_length)
    tokens = run.config.training.sequence_tokens(target.context_length)
    check_documents(run.file, run.corpora, "a training sequence", target.tokenizer, tokens)
    for source in run.config.sources:
        if source.address is None and not is_asked(source):
            checkpoint = _inspect(f"source {source.name}", run.file, source)
            check_k(run, source.name, checkpoint.vocabulary_size)
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


def check_target(model: str, target: Checkpoint) -> None:
    """Returns if row i of the target predicts token i+1 and sees nothing behind token i. Imports torch.

    Raises:
        ModelError: it does not: an encoder, a prefix LM, bidirectional attention, a head trained on unshifted labels.
    """
    from fusery.models.causality import check_architecture, check_causal
    from fusery.models.loading import load_model
    from fusery.source.conformance.checks import ENDINGS, quick_test, readable, refuse_failed
    from fusery.source.engines.transformers import engine_of

    name = f"target {model}"
    if not is_folder(model) or sum(path.stat().st_size for path in weight_files(target.folder)) > _LOADED_BYTES:
        check_architecture(known_architecture(target.folder)[0], name)
        return
    network = load_model(str(target.folder))
    check_causal(network, name)
    engine = engine_of(network, target, "", Dtype.FLOAT32, name)
    # A short context or a tokenizer that can't spell them says nothing of the model.
    if len(readable(ENDINGS, [engine])) == len(ENDINGS):
        refuse_failed(quick_test(engine), name)

"""Whether every address that a run names answers and fits the run; servers that may be about to come are waited for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from fusery.config.run import EngineKind, SourceSpec, split_engine
from fusery.hops.worker.broker import check_broker
from fusery.registry.tracking import check_tracking
from fusery.run.corpus.corpora import check_documents, check_requests
from fusery.run.open_model import Kind, Named, knock, opened
from fusery.run.open_run import Run, tokenizer_of
from fusery.runtime.errors import AddressError, ConfigError, Mismatch, NoAnswer, Unavailable
from fusery.runtime.settings import settings
from fusery.source.conformance.checks import quick_test, refuse_failed

log = logging.getLogger(__name__)

_PAUSE_S, _WORD_S = 2.0, 60.0
"""Between two times that silent servers are asked, and that it is said."""

_Check = Callable[[], None]


def check_addresses(run: Run) -> None:
    """Returns if every address answers; otherwise the error names all that don't.

    Raises:
        AddressError: those that don't, nor within FUSERY_WAIT_S seconds where one may be about to.
        ConfigError, CorpusError, ModelError: a source does not fit the run, or does not answer as it must.
    """
    ends_at = time.monotonic() + settings().wait_s
    says_at, said = 0.0, ""
    silent = _silent(_checks(run))
    while silent and (now := time.monotonic()) < ends_at:
        if not all(isinstance(error, NoAnswer) for error in silent.values()):
            # A wrong password, say, does not get better.
            break
        trouble = "; ".join(map(str, silent.values()))
        if now >= says_at or trouble != said:
            says_at, said = now + _WORD_S, trouble
            log.warning("waiting up to %.0f s more: %s", ends_at - now, trouble)
        time.sleep(min(_PAUSE_S, ends_at - now))
        silent = _silent(silent)
    if len(silent) == 1:
        raise next(iter(silent.values()))
    if silent:
        raise AddressError("\n".join(map(str, silent.values())))


def _silent(checks: Iterable[_Check]) -> dict[_Check, AddressError]:
    """The checks that fail, each with its error."""
    found: dict[_Check, AddressError] = {}
    for check in checks:
        try:
            check()
        except AddressError as error:
            found[check] = error
    return found


def _checks(run: Run) -> Iterator[_Check]:
    """One for each address that the run names."""
    broker = run.broker_url
    if run.config.registry.enabled:
        yield lambda: check_tracking(run.tracking_uri, timeout_s=5.0)
    if broker is not None:
        yield lambda: check_broker(broker)
    for source in run.config.sources:
        if source.address is not None or is_asked(source):
            yield partial(_check_source, run, source)


def is_asked(source: SourceSpec) -> bool:
    """Whether an inference server computes the source's distributions, behind a source server of the run's own."""
    return source.address is None and split_engine(source.model)[0] is not EngineKind.TRANSFORMERS


def _check_source(run: Run, source: SourceSpec) -> None:
    """The source's server answers as a source must, and the documents fit its model."""
    role = f"source {source.name}"
    where = f"{run.file.path}: {role}"
    if source.address is not None:
        server, kind, at = Named(role, source.address, Kind.SERVED), "source", f" at {source.address}"
    else:
        server = Named(role, source.model, Kind.ASKED, tokenizer_of(run.file, source), source.same_as)
        kind, at = "inference", ""
    try:
        knock(server, timeout_s=5.0, retry_for_s=2.0)
        with opened(server) as found:
            answers = found.source()
            check_k(run, source.name, min(answers.model.vocabulary_size, answers.model.limits.max_top_k))
            tokens = check_documents(run.file, run.corpora, role, answers.tokenizer, answers.model.context_length)
            check_requests(run.file, run.corpora, source.name, answers.model, tokens)
            refuse_failed(quick_test(answers), f"{where}{at}")
    except (Unavailable, AddressError) as error:
        error_kind = NoAnswer if isinstance(error, Unavailable) else AddressError
        raise error_kind(f"{where}: no {kind} server answers{at}: {server.why_silent(error)}") from error
    except Mismatch as error:
        raise Mismatch(f"{where}: {error}") from error


def check_k(run: Run, name: str, largest: int) -> None:
    if run.config.capture.top_k > largest:
        raise ConfigError(
            f"{run.file.path}: capture.top_k is {run.config.capture.top_k}, source {name} gives at most {largest} "
            "entries (its vocabulary, or its server's limit); make it smaller"
        )

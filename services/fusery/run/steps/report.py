"""`fusery report`: the HTML report of a run and its pictures, from what the store and the run's folder hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fusery.core.topk import TopK
from fusery.evaluation.report import html as html_report
from fusery.evaluation.report import plots
from fusery.evaluation.report import report as reports
from fusery.evaluation.report.html import Provenance, Sample
from fusery.evaluation.report.report import Report
from fusery.hops.plan import Hop, Plan, ShardTask
from fusery.hops.store import shards
from fusery.hops.store.shards import CorpusDocument
from fusery.hops.tables import load_tokenizer
from fusery.registry.licences import run_licences
from fusery.registry.redaction import published_yaml, without_secrets
from fusery.registry.training_metrics import Step, read_steps
from fusery.run.inspect.align import html as align_html
from fusery.run.inspect.align.view import Modes, Reading, view
from fusery.run.open_run import Run, open_run
from fusery.run.steps import steps
from fusery.run.steps.provenance import lineage
from fusery.runtime.errors import ConfigError

PAGE = "report.html"
_SAMPLE_BYTES, _MOST_SAMPLE_BYTES, _SAMPLES, _MOST_SHARDS = 240, 2000, 3, 64
_SHOWN_CELLS = 3


def report_step(path: Path, out: Path | None, folder: Path | None = None) -> Path:
    """The report of the run of `path`, written into the run's folder, and to `out` too; where the page is.

    Raises:
        ConfigError: the run is not evaluated yet, or `out` can't be written.
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.absolute().parent}; make it first")
    run = open_run(path, folder=folder)
    page = write_report(run, steps.load_plan(run)) / PAGE
    if out is None:
        return page
    try:
        out.write_bytes(page.read_bytes())
    except OSError as error:
        raise ConfigError(f"--out {out}: can't be written: {error.strerror}") from error
    return out


def write_report(run: Run, plan: Plan) -> Path:
    """The folder with the report's page and its pictures, written anew.

    Raises:
        ConfigError: the run is not evaluated yet.
    """
    if not steps.evaluation_path(run).exists():
        raise ConfigError(f"run {run.run_id} is not evaluated yet; start it with: {run.file.command('run')}")
    report = reports.read(steps.evaluation_path(run))
    folder = run.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {path.stem: path.read_bytes() for path in _pictures(report, metrics_of(run, plan), folder)}
    content = html_report.page(report, provenance(run, plan), pictures, list(_samples(run, plan)))
    draft = folder / f"{PAGE}.tmp"
    draft.write_text(content, encoding="utf-8")
    draft.replace(folder / PAGE)
    return folder


def metrics_of(run: Run, plan: Plan) -> dict[str, Path | None]:
    """The trainer's metrics of each training; None where there was none."""
    paths = {
        name: steps.training_folder(run, plan, clm_only) / "metrics.jsonl"
        for name, clm_only in ((steps.FUSED, False), (steps.CLM, True))
    }
    return {name: path if path.exists() else None for name, path in paths.items()}


def provenance(run: Run, plan: Plan) -> Provenance:
    train, held_out = run.corpora.train, run.corpora.held_out
    return Provenance(
        name=run.run_id,
        about=f"{len(plan.sources)} sources into {run.config.target.model}; {train.documents} training documents "
        f"({train.bytes:,} bytes), {held_out.documents} held out; domains: {', '.join(held_out.domains)}.",
        lineage=lineage(run, plan, run_licences(run)),
        settings={key: str(value) for key, value in steps.settings_of(run).items()},
        config=published_yaml(run.file.path.read_text(encoding="utf-8")).strip(),
    )


def _pictures(report: Report, metrics: dict[str, Path | None], folder: Path) -> Iterator[Path]:
    trainings: dict[str, list[Step]] = {name: read_steps(path) for name, path in metrics.items() if path is not None}
    yield plots.plot_bits_per_byte(report, folder / "bits_per_byte.png")
    yield plots.plot_gains(report, folder / "gains.png")
    if trainings:
        yield plots.plot_training(trainings, folder / "training.png")
    if report.coverage:
        yield plots.plot_coverage(report, folder / "coverage.png")
    if report.wins:
        yield plots.plot_wins(report, folder / "wins.png")


def _samples(run: Run, plan: Plan) -> Iterator[Sample]:
    """Of up to three domains, a document that is neither short nor long, as the target and each source read it."""
    for document, shard in _chosen(run, plan):
        tops: dict[str, TopK | None] = {}
        for source in plan.sources:
            name = plan.artefact(ShardTask(Hop.CAPTURE, source.name, shard))
            if run.store.find(name) is None:
                # Captures may be deleted when a run is done.
                return
            captured = shards.read_captured(run.store.read(name))
            tops[source.name] = next((c.top for c in captured if c.doc_id == document.doc_id), None)
        yield Sample(document.domain, document.doc_id, _page(run, plan, document, tops))


def _chosen(run: Run, plan: Plan) -> list[tuple[CorpusDocument, int]]:
    """Of each of the first domains a document with its shard: of the first that has one, that of the best length.

    A domain may begin in any shard; of many shards some are looked at, from the first to the last.
    """
    wanted = list(run.corpora.train.domains)[:_SAMPLES]
    found: dict[str, tuple[CorpusDocument, int]] = {}
    for shard in np.unique(np.linspace(0, plan.corpus_shards - 1, _MOST_SHARDS).astype(int)).tolist():
        documents = shards.read_corpus(run.store.read(plan.corpus_shard(shard)))
        for document in sorted(documents, key=lambda document: abs(len(document.text.encode()) - _SAMPLE_BYTES)):
            if document.domain in wanted and len(document.text.encode()) <= _MOST_SAMPLE_BYTES:
                found.setdefault(document.domain, (document, shard))
        if len(found) == len(wanted):
            break
    return [found[domain] for domain in wanted if domain in found]


def _page(run: Run, plan: Plan, document: CorpusDocument, tops: dict[str, TopK | None]) -> str:
    modes = Modes(plan.alignment.positions, plan.alignment.vocabulary, _SHOWN_CELLS)
    target = _reading(
        run,
        Path(run.config.target.model).name,
        run.config.target.model,
        plan.target_tokenizer_fingerprint,
        document,
        None,
    )
    given = {spec.name: without_secrets(spec.model) for spec in run.config.sources}
    sources = [
        _reading(
            run,
            source.name,
            given[source.name],
            source.tokenizer_fingerprint,
            document,
            _used(tops[source.name], plan.used_top_k(source)),
        )
        for source in plan.sources
    ]
    return align_html.page(view(document.text, modes, target, sources))


def _reading(run: Run, name: str, given: str, tokenizer: str, document: CorpusDocument, top: TopK | None) -> Reading:
    loaded = load_tokenizer(run.store, tokenizer)
    return Reading(name, given, loaded, loaded.tokenize(document.text), top)


def _used(top: TopK | None, k: int) -> TopK | None:
    """The entries that the run used, where more were captured."""
    if top is None:
        return None
    return TopK(np.ascontiguousarray(top.ids_RK[:, :k]), np.ascontiguousarray(top.log_probs_RK[:, :k]))

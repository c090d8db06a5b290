"""Check a run's YAML, models, corpora and addresses, without any work."""

from __future__ import annotations

from fusery.cli import options
from fusery.cli.options import Arguments, Parser

EXAMPLE = "fusery validate examples/tiny.yaml"


def set_up(parser: Parser) -> None:
    options.run_file(parser)
    parser.add_argument("--offline", action="store_true", help="read files only: no address is asked, no model opened")


def call(given: Arguments) -> None:
    from fusery.registry.licences import check_licences
    from fusery.run.corpus.reading import told
    from fusery.run.open_run import open_run
    from fusery.run.preflight.checks import check_registered_name, check_run
    from fusery.run.steps.tasks import check_tasks
    from fusery.runtime.text.shown import shown

    warnings = []
    run = open_run(given.file, asks_store=not given.offline)
    if not given.offline:
        # What needs no model first: a model takes seconds.
        check_tasks(run)
        warnings = check_licences(run)
        check_registered_name(run, check_run(run))
    train, held_out = run.corpora.train, run.corpora.held_out
    print(f"{given.file}: valid; run {run.run_id}")
    print(f"  {len(run.config.sources)} sources, target {shown(run.config.target.model)}")
    removed = run.corpora.removed
    print(f"  {train.documents} training documents in {train.shards} shards, {held_out.documents} held out")
    print(f"  domains: {shown(', '.join(held_out.domains))}; {removed.duplicates} duplicates left out")
    if run.corpora.skipped:
        print(f"  skipped: {told(run.corpora.skipped)}")
    if removed.held_out:
        print(f"  {removed.held_out} left out of the training documents because their text is held out")
    for warning in warnings:
        print(f"  warning: {shown(warning)}")

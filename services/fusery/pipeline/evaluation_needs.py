"""What an evaluation needs and can't make itself, told in words that say where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusery.errors import ConfigError, CorpusError
from fusery.pipeline.preflight import Run


def check_domains(run: Run) -> None:
    """Nothing, if every domain of the training text is measured, or the gate does not look at domains.

    Raises:
        CorpusError: a domain has no held-out text, so nobody could tell whether the training cost it something.
    """
    train, held_out = run.corpora.train.domains, run.corpora.held_out.domains
    unseen = [domain for domain in train if domain not in held_out]
    if unseen and run.config.gate.domain_tolerance is not None:
        raise CorpusError(
            f"{run.file.path}: training text of {_domains(unseen)} without held-out text, held-out text of "
            f"{_domains(list(held_out))}; name some under corpus.held_out (or raise corpus.held_out_share, "
            "corpus.max_held_out_documents), or set gate.domain_tolerance: null"
        )


def _domains(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"domain {shown}" if len(names) == 1 else f"domains {shown}"


def check_measured(run: Run, artefacts: Mapping[str, Sequence[str]]) -> None:
    """Nothing, if the store has the `artefacts` that each source's server must be asked for.

    Where it lacks some the run is not complete, whatever its note says; the note is taken away, so that the command
    which the message names does not take the run for done.

    Raises:
        ConfigError: some are missing; says of which sources, and the command that makes them.
    """
    missing = [source for source, names in artefacts.items() if any(run.store.find(name) is None for name in names)]
    if missing:
        run.store.remove_note(f"{run.name}/complete.json")
        raise ConfigError(
            f"run {run.run_id}: the store lacks what source{'s' * (len(missing) > 1)} {', '.join(missing)} said of the "
            "held-out text (it was removed, or this version or these settings measure it anew), and only a source's "
            f"server can say it; make it with: {run.file.command('run')}"
        )

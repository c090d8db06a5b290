"""Documents of Hugging Face datasets, by the package `datasets` (an extra: it brings much that a run seldom needs).

Only builders of plain tables are let through: no code of a dataset is run and nothing pickled is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from fusery.config.file import RunFile
from fusery.config.run import CorpusFile
from fusery.hops.store.shards import CorpusDocument
from fusery.run.corpus.files import all_files, state_of
from fusery.run.corpus.rows import BATCH_ROWS, Meter, Reading, chosen_columns, documents_of
from fusery.runtime.errors import ConfigError, CorpusError, how_to_install

_COMMIT = re.compile("[0-9a-f]{40}")
_BUILDERS = ("arrow", "csv", "json", "parquet", "text", "cache")
"""`cache`: what one of the others made of a Hub dataset earlier, where the Hub can't be reached now."""


def read_dataset(run: RunFile, file: CorpusFile, index: int, meter: Meter | None = None) -> Iterator[CorpusDocument]:
    """The documents of one split, in its order. `index` of the entry begins their ids; `meter` counts rows.

    Raises:
        ConfigError: `datasets` is not installed, or dataset, config or split are not there.
        CorpusError: the Hub can't be reached, or a row or column is not as expected.
    """
    where, revision = _place(run, file)
    builder = _builder(where, revision, file)
    with _refusals(file):
        builder.download_and_prepare()
        rows = builder.as_dataset(split=file.split)
    meter = meter or Meter()
    reading = Reading(file, file.path, f"{index}-{Path(where).name}", meter)
    columns = chosen_columns(rows.features.arrow_schema, reading)
    batches = rows.select_columns(columns).with_format("arrow").iter(batch_size=BATCH_ROWS)
    meter.total, meter.unit = rows.num_rows, "rows"
    for number, document in documents_of(batches, reading):
        meter.amount = number
        yield document


def dataset_state(run: RunFile, file: CorpusFile) -> str:
    """What tells the dataset's rows from those of another time: its commit, or its files' sizes and times.

    The Hub is asked only where no whole commit is pinned.

    Raises:
        ConfigError, CorpusError: as `read_dataset`.
    """
    where, revision = _place(run, file)
    if "://" not in where:
        return _state(where)
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    return str(_builder(where, revision, file).hash)


def _place(run: RunFile, file: CorpusFile) -> tuple[str, str | None]:
    """What `datasets` is asked for, and the revision."""
    place = file.dataset
    assert place is not None, "the caller asks for datasets only"
    where, revision = place
    if not where.startswith((".", "/", "~")):
        # With the prefix a folder of this name in the working directory is not taken for it.
        return f"hf://datasets/{where}", revision
    where = run.resolve(where)
    if not Path(where).is_dir():
        raise CorpusError(f"{where}: no such folder; expected a folder with the files of a dataset")
    return where, revision


def _builder(where: str, revision: str | None, file: CorpusFile) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"{file.path}: Hugging Face datasets need the package datasets: {how_to_install('datasets')}"
        ) from error
    with _refusals(file):
        # For a folder with a card `datasets` takes what it cached earlier even where the files are others now.
        cache = None if "://" in where else str(Path(datasets.config.HF_DATASETS_CACHE) / f"fusery-{_state(where)}")
        builder = datasets.load_dataset_builder(where, name=file.config, revision=revision, cache_dir=cache)
    if builder.name not in _BUILDERS:
        raise ConfigError(
            f"{file.path}: its files are of the kind {builder.name}, expected {', '.join(_BUILDERS[:-1])}"
        )
    # The cache gives its newest version, whatever revision is asked for.
    if builder.name == "cache" and revision is not None and revision != builder.hash:
        raise CorpusError(
            f"{file.path}: the Hugging Face Hub can't be reached or lacks this revision, and the cache has "
            f"{builder.hash}; load it once with the network, or pin the whole commit {builder.hash}"
        )
    return builder


def _state(folder: str) -> str:
    """A name for a folder and its files as they are now, by their sizes and times."""
    return state_of(sorted(all_files(Path(folder))))[:16]


@contextmanager
def _refusals(file: CorpusFile) -> Iterator[None]:
    """Turns all that `datasets`, huggingface_hub, httpx and fsspec raise into an error that says what to do."""
    try:
        yield
    except Exception as error:
        said, cause = " ".join(str(error).split()), cast(BaseException | None, error)
        while cause is not None:
            # huggingface_hub went from httpx to httpx2, and both call the class so.
            if isinstance(cause, ConnectionError) or "TransportError" in [
                kind.__name__ for kind in type(cause).__mro__
            ]:
                raise CorpusError(
                    f"{file.path}: the Hugging Face Hub can't be reached: {said}; check the network and HF_ENDPOINT, "
                    "unset HF_HUB_OFFLINE, bring the cache (HF_HOME) of a machine that has loaded it, or download the "
                    "dataset to a folder and write hf:./FOLDER"
                ) from error
            cause = cause.__cause__
        which = f"config {file.config or 'default'}, split {file.split}"
        raise ConfigError(f"{file.path}: {which} can't be loaded: {said}") from error

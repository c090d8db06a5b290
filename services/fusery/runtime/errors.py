"""One tree of errors, by whose fault it is and whether a retry helps.

The class alone decides three things: the exit code of a command, the gRPC status of an answer, and
whether a task is worth another attempt. Messages say what, got, expected, and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class FuseryError(Exception):
    """Every error that fusery raises on purpose; anything else is a defect."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False


class InvalidInput(FuseryError):
    """What the caller gave is wrong; the same input fails again. `field`: where in a gRPC request, if known."""

    exit_code = 2

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ConfigError(InvalidInput):
    """A run's YAML or a setting is wrong: names the file, the line and the key."""


class ModelError(InvalidInput):
    """A model or its tokenizer can't be used: missing, unknown, pickle-only, without a fast form."""


class CorpusError(InvalidInput):
    """Documents are missing, unreadable or empty."""


class AddressError(InvalidInput):
    """An address given to a run does not answer; found out before any work."""


class NoAnswer(AddressError):
    """Nothing answers at an address; a server may be about to come."""


class Mismatch(InvalidInput):
    """Two things that must belong together don't: a fingerprint, a digest, a partition."""


class TooLarge(InvalidInput):
    """A request is over a limit that the message names."""


class Unavailable(FuseryError):
    """Something is not there now and may be soon: loading, draining, restarting."""

    retryable = True


class Overloaded(Unavailable):
    """A queue is full; try again after a pause."""


class SourceAway(Unavailable):
    """A source's server is away, loads or is full. The shard is not to blame: its task waits and is no attempt."""


class SourceLost(SourceAway):
    """A source's server went away while it was asked about a shard, which may be what ended it."""


class StoreFull(FuseryError):
    """The store has no room; what is done is kept."""

    retryable = True

    @classmethod
    def at(cls, path: str, needed_bytes: int, free_bytes: int | None) -> StoreFull:
        """What was to be written at `path`, and what is free there (None: not known), in bytes."""
        free = "an unknown number of" if free_bytes is None else f"{free_bytes:,}"
        return cls(
            f"{path}: the store is full: {needed_bytes:,} bytes needed, {free} bytes free (or a quota is used up); "
            "make room, for instance with fusery store rm --unused, and run the same command again"
        )


class Corrupt(FuseryError):
    """Bytes that are not what their checksum says; `artefact`, where it has a name, is made again."""

    retryable = True

    def __init__(self, message: str, artefact: str | None = None) -> None:
        super().__init__(message)
        self.artefact = artefact


class Degraded(FuseryError):
    """Part of a run failed for good; everything else is done and kept."""

    exit_code = 3


class GateFailed(FuseryError):
    """The measures are no proof of a gain; everything is done and kept, and the model got no alias."""

    exit_code = 4


class Interrupted(FuseryError):
    """The user stopped the run; the same command takes it up again."""

    exit_code = 130


def how_to_install(extra: str) -> str:
    """What to do where a package of one of fusery's extras is missing; fusery itself is on no package index."""
    return f"pip install --constraint constraints.txt '.[{extra}]' in a checkout of fusery"

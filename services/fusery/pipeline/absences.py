"""Sources that are away: their tasks wait, and one of them is sent now and then to find out whether the source is back.

A large model takes many minutes to load again, so no number of failures gives a source up: a person does, who sees on
the screen what is waited for. But a shard can be what ends its source's server, each time it is asked; so a task in
whose middle the source went away ten times counts its further attempts as failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from fusery.errors import SourceAway, SourceLost
from fusery.pipeline.attempts import Failure
from fusery.worker.plan import ShardTask

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 30.0
_LOST_OFTEN = 10


@dataclass(slots=True)
class _Absence:
    why: str
    ask_at: float
    pause_s: float = _FIRST_PAUSE_S


@dataclass(slots=True)
class Absences:
    """Which sources are away, by the failures of their tasks. `clock` in seconds."""

    clock: Callable[[], float]
    _away: dict[str, _Absence] = field(default_factory=dict)
    _lost: Counter[ShardTask] = field(default_factory=Counter)

    def excuse(self, failure: Failure) -> bool:
        """Whether the source was away and the task is not to blame; notes it then."""
        if failure.error not in (SourceAway.__name__, SourceLost.__name__):
            return False
        if failure.error == SourceLost.__name__:
            self._lost[failure.task] += 1
            if self._lost[failure.task] > _LOST_OFTEN:
                return False
        known = self._away.get(failure.task.source)
        if known is None:
            self._away[failure.task.source] = _Absence(failure.reason, self.clock() + _FIRST_PAUSE_S)
        elif self.clock() >= known.ask_at:
            # Of tasks that were sent before it was known, the first one counts.
            known.pause_s = min(2 * known.pause_s, _LONGEST_PAUSE_S)
            known.why, known.ask_at = failure.reason, self.clock() + known.pause_s
        return True

    def answered(self, source: str) -> None:
        self._away.pop(source, None)

    def why(self, source: str) -> str:
        """What is wrong with a source that is away; '': it is not."""
        return self._away[source].why if source in self._away else ""

    def most(self, source: str, usual: int) -> int:
        """How many tasks of a source may be under way: none while it is away, and one when it is time to ask."""
        if source not in self._away:
            return usual
        return 1 if self.clock() >= self._away[source].ask_at else 0

"""What holds the tasks of a source back: it is away, or the first of them failed with errors that no retry helps.

The tasks of a source that is away wait, and one of them is sent now and then to find out whether it is back. A large
model takes many minutes to load again, so no number of failures gives a source up: a person does, who sees on the
screen what is waited for. But a shard can be what ends its source's server, each time it is asked; so a task in
whose middle the source went away ten times counts its further attempts as failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from fusery.hops.plan import Hop, ShardTask
from fusery.run.coordinator.attempts import Failure
from fusery.runtime.errors import SourceAway, SourceLost

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 30.0
_LOST_OFTEN = 10
_STOPS_AFTER = 3
"""A wrong token or another model fails every shard of a source alike; so many in a row say that it does."""


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


@dataclass(slots=True)
class _Streak:
    tasks: set[ShardTask] = field(default_factory=set)
    at_work: set[ShardTask] = field(default_factory=set)
    """Under way when the streak was long enough; a success among them ends it."""


@dataclass(slots=True)
class Streaks:
    """By hop and source the shards that failed one after the other with an error that no retry helps."""

    _streaks: dict[tuple[Hop, str], _Streak] = field(default_factory=dict)

    def failed(self, task: ShardTask, running: Set[ShardTask]) -> None:
        """Counts a task that was given up at once. `running`: the tasks under way."""
        key = task.hop, task.source
        streak = self._streaks.setdefault(key, _Streak())
        streak.tasks.add(task)
        if len(streak.tasks) == _STOPS_AFTER:
            streak.at_work = {other for other in running if (other.hop, other.source) == key} - {task}

    def succeeded(self, task: ShardTask) -> None:
        self._streaks.pop((task.hop, task.source), None)

    def holds(self, hop: Hop, source: str) -> bool:
        """Whether no more tasks are published: the outcome of those under way is awaited, or all ended in vain."""
        streak = self._streaks.get((hop, source))
        return streak is not None and len(streak.tasks) >= _STOPS_AFTER

    def stops(self, hop: Hop, source: str, running: Set[ShardTask]) -> bool:
        """Whether the hop ends here for this source."""
        return self.holds(hop, source) and not self._streaks[hop, source].at_work & running

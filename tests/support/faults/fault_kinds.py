"""What a fault of the suite is: a name, what is done, and a function that does it to a scene and judges the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from support.faults.fault_scene import Scene


@dataclass(frozen=True, slots=True)
class Fault:
    """`goal_s`: the recovery that is promised, None: none is. `new_workers`: it must begin with them.

    `spoils_workers`: after it they are started anew, so that no later run has this one's troubles.
    """

    name: str
    what: str
    act: Callable[[Scene], None]
    goal_s: float | None = None
    new_workers: bool = False
    spoils_workers: bool = False


FAULTS: dict[str, Fault] = {}


def fault(
    name: str,
    what: str,
    *,
    goal_s: float | None = None,
    new_workers: bool = False,
    spoils_workers: bool = False,
) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Puts a function into FAULTS."""

    def add(act: Callable[[Scene], None]) -> Callable[[Scene], None]:
        FAULTS[name] = Fault(name, what, act, goal_s, new_workers, spoils_workers)
        return act

    return add

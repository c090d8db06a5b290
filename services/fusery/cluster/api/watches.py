"""What happens to objects and in logs of a cluster, as one queue: a thread for each, which connects again by itself.

A watch is an optimisation and no truth: it ends when the API likes, forgets versions and breaks off with every load
balancer. So a feed lists, watches from there, and lists anew whenever the watch was lost.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from fusery.cluster.api.api import Cluster
from fusery.cluster.api.errors import Expired, Object, Place
from fusery.errors import FuseryError, InvalidInput, Unavailable


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: the first and the longest pause before another attempt, how long a watch lasts, how often events are
    asked for while something waits, and how often the same trouble is said again."""

    pause_s: float = 1.0
    longest_pause_s: float = 30.0
    watch_s: int = 60
    events_s: float = 15.0
    again_s: float = 600.0


PACE = Pace()


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects of a feed at one moment."""

    place: Place
    objects: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """One object as it is now, or was when it went."""

    place: Place
    object: Object
    is_gone: bool


@dataclass(frozen=True, slots=True)
class LogLine:
    pod: str
    text: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A feed can't go on (`is_over`), or not now. `error` says why."""

    error: FuseryError
    is_over: bool


@dataclass(frozen=True, slots=True)
class Silent:
    """A log that can't be read any more, or not by this account."""

    pod: str
    error: FuseryError


News = Listed | Changed | LogLine | Broken | Silent


@dataclass(slots=True)
class Feeds:
    """The feeds of one follower. Use as a context manager: the threads end soon after it."""

    cluster: Cluster
    pace: Pace = PACE
    _news: SimpleQueue[News] = field(default_factory=SimpleQueue)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Feeds:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def objects(self, place: Place, **selectors: str) -> None:
        """Starts the feed of the objects that the selectors choose."""
        self._start(self._watch, place, selectors)

    def log(self, pod: str, container: str, tail: int | None) -> Reader:
        """Starts the feed of a container's log, from its last `tail` lines on (None: from the first)."""
        reader = Reader(pod, container, tail)
        reader.thread = self._start(self._read, reader)
        return reader

    def news(self, wait_s: float) -> Iterator[News]:
        """What has come, after at most `wait_s` of waiting for the first of it."""
        try:
            yield self._news.get(timeout=wait_s)
            while True:
                yield self._news.get_nowait()
        except Empty:
            return

    def _start(self, target: Any, *arguments: Any) -> threading.Thread:
        # A daemon: a request that is under way holds nobody up.
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        return thread

    def _watch(self, place: Place, selectors: dict[str, str]) -> None:
        pause_s, has_worked = self.pace.pause_s, False
        while not self._stop.is_set():
            try:
                listing = self.cluster.list(place, **selectors)
                self._news.put(Listed(place, listing.items))
                pause_s, has_worked = self.pace.pause_s, True
                self._watch_from(place, listing.version, selectors)
            except Expired:
                self._stop.wait(self.pace.pause_s)
            except FuseryError as error:
                # What worked for hours is not over because an account is not known for a minute.
                is_over = not has_worked and not isinstance(error, Unavailable)
                self._news.put(Broken(error, is_over))
                if is_over:
                    return
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, self.pace.longest_pause_s)

    def _watch_from(self, place: Place, version: str, selectors: dict[str, str]) -> None:
        while not self._stop.is_set():
            for change in self.cluster.watch(place, version, self.pace.watch_s, **selectors):
                version = change.version
                if change.kind != "BOOKMARK":
                    self._news.put(Changed(place, change.object, change.kind == "DELETED"))
                if self._stop.is_set():
                    return
            # Something in between may end every watch at once; what happens meanwhile comes with the next.
            self._stop.wait(self.pace.pause_s)

    def _read(self, reader: Reader) -> None:
        pause_s = self.pace.pause_s
        while not self._stop.is_set():
            # Read before the log: an end that is seen meanwhile is followed by one more look.
            is_last = reader.has_ended.is_set()
            try:
                for line in self.cluster.log(reader.pod, reader.container, follow=not is_last, **reader.where()):
                    pause_s = self.pace.pause_s
                    if (text := reader.take(line)) is not None:
                        self._news.put(LogLine(reader.pod, text))
            except Unavailable:
                # The watches say so; and a log may just have been silent for long.
                pause_s = min(2 * pause_s, self.pace.longest_pause_s)
                self._stop.wait(pause_s)
                continue
            except FuseryError as error:
                if is_last or not _may_start(error):
                    self._news.put(Silent(reader.pod, error))
                    return
            if is_last:
                return
            reader.has_ended.wait(pause_s)


def _may_start(error: FuseryError) -> bool:
    """Whether a log is refused (400) only because its container has not started; its subclasses say what else."""
    return type(error) is InvalidInput


@dataclass(slots=True)
class Reader:
    """How far a log is read. `has_ended`: the container has, so what is there is all that comes."""

    pod: str
    container: str
    tail: int | None
    last: str = ""
    has_ended: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def where(self) -> dict[str, str]:
        """Where to go on: the API takes whole seconds, so lines of the last one come again."""
        if self.last:
            return {"sinceTime": self.last}
        return {} if self.tail is None else {"tailLines": str(self.tail)}

    def take(self, line: str) -> str | None:
        """The line without its time; None: it came before."""
        moment, _, text = line.partition(" ")
        if moment <= self.last:
            return None
        self.last = moment
        return text

    def finish(self, wait_s: float) -> None:
        """Returns when all that came before the container's end is read, or after `wait_s`."""
        self.has_ended.set()
        if self.thread is not None:
            self.thread.join(wait_s)

"""What happens to objects and in logs of a cluster, as one queue: a thread for each, which connects again by itself.

A watch is an optimisation and no truth: it ends when the API likes, forgets versions and breaks off with every load
balancer. So a feed lists, watches from there, and lists anew whenever the watch was lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue

from fusery.cluster.api.api import Cluster
from fusery.cluster.api.errors import Expired, Object, Place
from fusery.runtime.errors import FuseryError, InvalidInput, Unavailable


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


Seen = Callable[[dict[str, Object], Object | None], None]
"""Takes all objects of a feed by name, and the one that has just gone."""


@dataclass(slots=True)
class Feeds:
    """The feeds of one follower. Use as a context manager: the threads end soon after it.

    What they find is handed over by `take`, in the follower's own thread.
    """

    cluster: Cluster
    broken: Callable[[FuseryError, bool], None]
    """Takes why a feed can't go on now, and whether it is over for good."""
    pace: Pace = PACE
    _calls: SimpleQueue[Callable[[], None]] = field(default_factory=SimpleQueue)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Feeds:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def objects(self, place: Place, seen: Seen, **selectors: str) -> None:
        """Starts the feed of the objects that the selectors choose."""
        self._start(self._watch, place, seen, selectors)

    def log(self, reader: Reader) -> None:
        """Starts the feed of a container's log."""
        reader.thread = self._start(self._read, reader)

    def take(self, wait_s: float) -> None:
        """Hands over what has come, after at most `wait_s` of waiting for the first of it."""
        try:
            self._calls.get(timeout=wait_s)()
            while True:
                self._calls.get_nowait()()
        except Empty:
            return

    def _start(self, target: Callable[..., None], *arguments: object) -> threading.Thread:
        # A daemon: a request that is under way holds nothing up.
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        return thread

    def _watch(self, place: Place, seen: Seen, selectors: dict[str, str]) -> None:
        pause_s, has_worked = self.pace.pause_s, False
        while not self._stop.is_set():
            try:
                listing = self.cluster.list(place, **selectors)
                objects = {found["metadata"]["name"]: found for found in listing.items}
                self._calls.put(partial(seen, dict(objects), None))
                pause_s, has_worked = self.pace.pause_s, True
                self._watch_from(place, seen, listing.version, objects, selectors)
            except Expired:
                self._stop.wait(self.pace.pause_s)
            except FuseryError as error:
                # What worked for hours is not over because an account is not known for a minute.
                is_over = not has_worked and not isinstance(error, Unavailable)
                self._calls.put(partial(self.broken, error, is_over))
                if is_over:
                    return
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, self.pace.longest_pause_s)

    def _watch_from(
        self, place: Place, seen: Seen, version: str, objects: dict[str, Object], selectors: dict[str, str]
    ) -> None:
        while not self._stop.is_set():
            for kind, changed in self.cluster.watch(place, version, self.pace.watch_s, **selectors):
                version = str(changed["metadata"]["resourceVersion"])
                if kind == "DELETED":
                    objects.pop(changed["metadata"]["name"], None)
                elif kind != "BOOKMARK":
                    objects[changed["metadata"]["name"]] = changed
                if kind != "BOOKMARK":
                    self._calls.put(partial(seen, dict(objects), changed if kind == "DELETED" else None))
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
                        self._calls.put(partial(reader.say, text))
            except Unavailable:
                # The watches say so; and a log may just have been silent for long.
                pause_s = min(2 * pause_s, self.pace.longest_pause_s)
                self._stop.wait(pause_s)
                continue
            except FuseryError as error:
                # Refused (400) only because its container has not started; subclasses say what else.
                may_start = type(error) is InvalidInput
                if is_last or not may_start:
                    self._calls.put(partial(reader.silent, error))
                    return
            if is_last:
                return
            reader.has_ended.wait(pause_s)


@dataclass(slots=True)
class Reader:
    """How far a log is read, from its last `tail` lines on (None: from the first).

    `say` takes its lines; `silent` why it can't be read any more, or not by this account.
    """

    pod: str
    container: str
    tail: int | None
    say: Callable[[str], None]
    silent: Callable[[FuseryError], None]
    last: str = ""
    has_ended: threading.Event = field(default_factory=threading.Event)
    """The container has, so what is there is all that comes."""
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

"""`fusery run FILE.yaml --on kubernetes`: the run's Job, created or taken up, and followed from this machine.

What happens in the cluster does not hang on this command: it may be stopped, and given again from another machine.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from fusery.cluster.api import states
from fusery.cluster.api.api import Cluster, from_kubeconfig
from fusery.cluster.api.follow import Deleted, Follower, Kind, Outcome
from fusery.cluster.api.launch import Launched, deletion, launch
from fusery.cluster.api.watches import PACE, Pace
from fusery.cluster.manifests.render import cluster_objects, read_cluster_file
from fusery.runtime import output
from fusery.runtime.errors import FuseryError, Interrupted

_LOOK_S = 0.5
_TAIL = 20
"""Lines of the log that are shown of what went before, when a run is taken up."""

_STYLES = {Kind.STATE: "dim", Kind.TROUBLE: "yellow", Kind.LOG: ""}


@dataclass(frozen=True, slots=True)
class Voice:
    """Says what happens: to people, or as one JSON object a line with `event` and `text`."""

    as_json: bool

    def __call__(self, kind: Kind, text: str) -> None:
        if self.as_json:
            print(output.to_json({"event": kind.value, "text": text}), flush=True)
        else:
            output.console().print(Text(text, _STYLES[kind]), soft_wrap=True)


def run_on_kubernetes(path: Path, options: Sequence[str] = (), as_json: bool = False, pace: Pace = PACE) -> int:
    """The exit code of the run of `path` in the cluster of the kubeconfig, followed to its end.

    `options`: of the command `run` in the pod, such as --until.

    Raises:
        InvalidInput: the YAML, the kubeconfig or a right is not what it must be; the message says what helps.
        Unavailable: the Kubernetes API does not answer.
        Interrupted: Ctrl-C; the run goes on.
    """
    given = read_cluster_file(path, {})
    objects = cluster_objects(given, arguments=options)
    cluster, say = from_kubeconfig(given.config.kubernetes.namespace), Voice(as_json)
    again = " ".join(["fusery run", shlex.quote(str(path)), "--on kubernetes", *options])
    launched = launch(cluster, objects, say)
    shown = f"{launched.place}/{launched.name}"
    try:
        outcome = launched.outcome or _follow(cluster, launched, say, pace)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped following; {shown} goes on. Follow it again with: {again}\n"
            f"Stop it, and keep what is done, with: {deletion(cluster, objects)}"
        ) from None
    except Deleted as error:
        raise FuseryError(f"{error}; what is done is kept, and taken up with: {again}") from error
    if launched.outcome is not None:
        say(Kind.STATE, f"{shown} in namespace {cluster.namespace} has ended before; the end of its log:")
        for line in outcome.last_lines:
            say(Kind.LOG, line)
        say(Kind.STATE, f"to run it again: {deletion(cluster, objects)}, then: {again}")
    return _end(shown, outcome, again)


def _follow(cluster: Cluster, launched: Launched, say: Voice, pace: Pace) -> Outcome:
    shown = f"{launched.place}/{launched.name} in namespace {cluster.namespace} of {cluster.server}"
    how = "created" if launched.is_new else "goes on already; taking it up"
    say(Kind.STATE, f"{shown}: {how}. Ctrl-C stops following and leaves the run alone")
    tail = 0 if launched.is_new else _TAIL
    with Follower(cluster, launched.place, launched.name, say, tail, pace) as follower:
        while (outcome := follower.look(_LOOK_S)) is None:
            pass
    return outcome


def _end(shown: str, outcome: Outcome, again: str) -> int:
    """Returns the exit code, and prints what it means."""
    if outcome.succeeded:
        return 0
    code = 1 if outcome.exit_code is None else outcome.exit_code
    why = outcome.why or states.exit_words(code) if outcome.exit_code is not None else "no pod is left that says why"
    print(f"fusery run: {shown} failed: {why}; {outcome.reason or 'no reason given'}", file=sys.stderr)
    if code != 4:
        print(f"fusery run: mend the cause, then take it up with: {again}", file=sys.stderr)
    return code

"""Steps of a run that have jobs of their own in a cluster: launched from the run's pod, and waited for there.

The jobs belong to the run's Job: they are deleted with it, and write a checkpoint. A run's pod that
dies leaves them alone, and the next one takes them up.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from fusery.cluster.api.api import Cluster, from_service_account
from fusery.cluster.api.errors import POD, Object
from fusery.cluster.api.follow import Deleted, Follower, Kind, Outcome
from fusery.cluster.api.launch import launch, patiently, rehearse
from fusery.cluster.api.watches import PACE, Pace
from fusery.cluster.manifests.manifests import step_objects
from fusery.cluster.manifests.names import Step
from fusery.config.kubernetes import StepKind, TrainerKind
from fusery.run.board import Board
from fusery.run.open_run import Run
from fusery.runtime.errors import ConfigError, FuseryError, InvalidInput
from fusery.runtime.settings import cluster_settings

log = logging.getLogger(__name__)

_POLL_S = 0.5
_SEEN_S = 90.0
"""A file that another node wrote shows up on a network volume after at most so long."""
_ROUNDS = 3


def has_job(run: Run, step: Step) -> bool:
    """Whether this process is in a cluster and the run gives the step a job of its own; else it is a command here."""
    kubernetes = run.config.kubernetes
    asked = kubernetes.trainer.kind is not TrainerKind.RUN
    if step is Step.EVALUATE:
        asked = kubernetes.evaluate.kind is not StepKind.RUN
    return asked and cluster_settings().kubernetes_service_host is not None


def check_jobs(run: Run) -> None:
    """Returns if the cluster would take the jobs that the run will launch, hours later.

    Raises:
        ConfigError: this pod has no token, or the cluster does not know the kind of job.
        NotAllowed: its account lacks a right; the message says which.
    """
    steps = [step for step in Step if has_job(run, step)]
    if steps:
        cluster = from_service_account()
        for step in steps:
            objects = step_objects(run.config, step)
            patiently(partial(rehearse, cluster, objects), lambda _, text: log.warning("%s", text))


@dataclass(frozen=True, slots=True)
class StepJobs:
    """Jobs of one step that go on at the same time. `options`: of the command in each, by its title on the board.

    `show`: shows how far they are; `is_done`: whether the result of a title can be seen here.
    """

    run: Run
    board: Board
    step: Step
    options: Mapping[str, Sequence[str]]
    show: Callable[[], None]
    is_done: Callable[[str], bool]
    pace: Pace = PACE

    def carry_out(self) -> None:
        """Returns when all have ended well and their results are here.

        Raises:
            InvalidInput: one found its input wrong; another attempt is in vain.
            FuseryError: one failed; the others go on, and the next start of the run takes them up.
        """
        cluster = from_service_account()
        owner = patiently(lambda: _owner(cluster), self._say)
        with ExitStack() as stack:
            going = {title: stack.enter_context(self._launched(cluster, title, owner)) for title in self.options}
            relaunched = dict.fromkeys(going, 0)
            while going:
                for title, follower in list(going.items()):
                    try:
                        outcome = follower.look(_POLL_S / len(going))
                    except Deleted as error:
                        relaunched[title] += 1
                        if relaunched[title] == _ROUNDS:
                            raise
                        self._say(Kind.TROUBLE, f"{error}; it is started again")
                        going[title] = stack.enter_context(self._launched(cluster, title, owner))
                        continue
                    if outcome is not None:
                        self._check(title, follower.name, outcome)
                        del going[title]
                self.show()
        self.show()

    def _launched(self, cluster: Cluster, title: str, owner: Object | None) -> Follower:
        objects = step_objects(self.run.config, self.step, self.options[title], owner)
        launched = patiently(lambda: launch(cluster, objects, self._say, keeps_done=False), self._say)
        how = "started as" if launched.is_new else "goes on as"
        self._say(Kind.STATE, f"{title} {how} {launched.place}/{launched.name}")
        return Follower(cluster, launched.place, launched.name, self._say, pace=self.pace)

    def _say(self, kind: Kind, text: str) -> None:
        self.board.say("cluster", text, "yellow" if kind is Kind.TROUBLE else "")

    def _check(self, title: str, name: str, outcome: Outcome) -> None:
        if not outcome.succeeded:
            kind = InvalidInput if outcome.exit_code == InvalidInput.exit_code else FuseryError
            code = "no exit code that is known" if outcome.exit_code is None else f"exit code {outcome.exit_code}"
            log = "\n".join(outcome.last_lines)
            raise kind(f"{title}, job {name}, ended with {code}: {outcome.reason}; the end of its log:\n{log}")
        deadline = time.monotonic() + _SEEN_S
        while not self.is_done(title):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{title}, job {name}, is done, and its result is not in {self.run.folder}: the run's pod and the "
                    "job must have one work folder; name a volume of both as kubernetes.work_claim, or keep the store "
                    "on one (docs/deployment.md, Run on a cluster)"
                )
            time.sleep(_POLL_S)


def _owner(cluster: Cluster) -> Object | None:
    """The Job that this pod belongs to; None if no Job started it."""
    # A pod's host name is its name, up to 63 characters of it, and a run's Job has at most 35.
    pods = cluster.list(POD, fieldSelector=f"metadata.name={socket.gethostname()}").items
    owners = [owner for pod in pods for owner in pod["metadata"].get("ownerReferences", [])]
    keys = ("apiVersion", "kind", "name", "uid")
    return next(({key: owner[key] for key in keys} for owner in owners if owner["kind"] == "Job"), None)

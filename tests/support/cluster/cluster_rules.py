"""What the account of a run's pod must be allowed to do, as (API group, resource, verb): what the chart's Role gives.

`tests/run/steps/test_step_jobs.py` shows that a run whose steps are jobs asks for exactly these.
"""

from __future__ import annotations

Rules = frozenset[tuple[str, str, str]]


def _rules(group: str, resource: str, *verbs: str) -> Rules:
    return frozenset((group, resource, verb) for verb in verbs)


_FOLLOWED = ("create", "delete", "get", "list", "watch")
_MADE = ("create", "delete", "get")

ALWAYS: Rules = _rules("", "pods", "list", "watch") | _rules("", "pods/log", "get") | _rules("", "events", "list")
"""What became of the pods of a step, and why."""

BY_KIND: dict[str, Rules] = {
    "job": ALWAYS | _rules("batch", "jobs", *_FOLLOWED) | _rules("", "services", *_MADE),
    "jobset": ALWAYS | _rules("jobset.x-k8s.io", "jobsets", *_FOLLOWED),
    "trainjob": ALWAYS
    | _rules("trainer.kubeflow.org", "trainjobs", *_FOLLOWED)
    | _rules("trainer.kubeflow.org", "trainingruntimes", *_MADE),
}
"""By the kind of what a run launches (`kubernetes.trainer.kind`)."""

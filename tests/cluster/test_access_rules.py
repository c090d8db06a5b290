"""The rights of a run's account: what is asked for is what docs/deployment.md lists; so is what the chart gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.cluster.cluster_rules import BY_KIND, Rules

DOCS = Path(__file__).parents[2] / "docs/deployment.md"
_ROW = re.compile(r"^\| (core|`[\w.-]+`) \| `([\w/]+)` \| ([\w, ]+) \| (.*) \|$", re.MULTILINE)


def documented(kind: str) -> Rules:
    """The rows that hold for every kind of job, and those that name this one."""
    found: Rules = frozenset()
    for group, resource, verbs, what in _ROW.findall(DOCS.read_text(encoding="utf-8")):
        kinds = re.findall(r"`(job|jobset|trainjob)`", what)
        if not kinds or kind in kinds:
            name = "" if group == "core" else group.strip("`")
            found |= frozenset((name, resource, verb) for verb in verbs.split(", "))
    return found


@pytest.mark.parametrize("kind", BY_KIND)
def test_the_docs_list_what_a_run_asks_for_and_no_more(kind: str) -> None:
    assert documented(kind) == BY_KIND[kind]


def test_no_right_reaches_secrets_or_changes_what_is_there() -> None:
    everything = frozenset[tuple[str, str, str]]().union(*BY_KIND.values())
    assert not {resource for _, resource, _ in everything} & {"secrets", "*"}
    assert not {verb for _, _, verb in everything} & {"*", "patch", "update", "deletecollection", "impersonate"}

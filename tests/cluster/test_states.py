"""What a pod or a Job says of itself, in words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.cluster.api import states
from fusery.cluster.api.states import State
from fusery.cluster.api.watches import Reader


def pod(name: str = "p", created: str = "", index: int = 0, **status: Any) -> dict[str, Any]:
    labels = {"batch.kubernetes.io/job-completion-index": str(index)}
    return {"metadata": {"name": name, "creationTimestamp": created, "labels": labels}, "status": status}


def ended(code: int, **given_: Any) -> dict[str, Any]:
    return pod(**given_, containerStatuses=[{"name": "main", "state": {"terminated": {"exitCode": code}}}])


@pytest.mark.parametrize(
    ("status", "text", "is_trouble"),
    [
        ({}, "is being started", False),
        ({"phase": "Pending"}, "is being started", False),
        ({"phase": "Running"}, "runs", False),
        ({"phase": "Succeeded"}, "is done", False),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "failed: Evicted: low on memory", True),
        ({"phase": "Failed"}, "failed: its node says no more", True),
        ({"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]}, "is being started", False),
    ],
)
def test_a_pods_phase_is_told(status: dict[str, Any], text: str, is_trouble: bool) -> None:
    said = states.of_pod(pod(**status))
    assert (said.text, said.is_trouble) == (text, is_trouble)


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing", ""])
def test_what_comes_before_a_start_is_no_trouble(reason: str) -> None:
    state = {"name": "main", "state": {"waiting": {"reason": reason}}}
    assert not states.of_pod(pod(phase="Pending", containerStatuses=[state])).is_trouble


def test_a_pod_on_its_way_out_is_told() -> None:
    leaving = pod(phase="Running")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert states.of_pod(leaving).text == "is being stopped"


def test_an_init_container_that_failed_gives_the_exit_code() -> None:
    failed = ended(7)
    failed["status"]["initContainerStatuses"] = failed["status"].pop("containerStatuses")
    assert states.exit_code(failed) == 7
    failed["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] = 0
    assert states.exit_code(failed) is None


@pytest.mark.parametrize(("codes", "code"), [([1, 137], 137), ([2, 1], 2), ([0, 3, 143], 3), ([0], None), ([], None)])
def test_of_many_pods_the_one_that_decides_gives_the_exit_code(codes: list[int], code: int | None) -> None:
    pods = [ended(value, created=f"2026-01-01T00:00:0{number}Z") for number, value in enumerate(codes)]
    assert states.exit_code_of(pods[::-1]) == code


def test_of_pods_of_one_moment_the_first_of_the_job_is_read() -> None:
    pods = [pod(f"node-{index}", "2026-01-01T00:00:00Z", index) for index in (1, 0, 2)]
    shown = states.newest(pods)
    assert shown is not None
    assert shown["metadata"]["name"] == "node-0"
    assert states.newest([*pods, pod("again-1", "2026-01-01T00:00:09Z", 1)])["metadata"]["name"] == "again-1"  # type: ignore[index]
    assert states.newest([]) is None


@pytest.mark.parametrize(
    ("kind", "state"), [("Complete", State.DONE), ("Completed", State.DONE), ("Failed", State.FAILED)]
)
def test_a_condition_that_is_true_ends_a_job(kind: str, state: State) -> None:
    def job(status: str) -> dict[str, Any]:
        conditions = [{"type": "Other", "status": "True"}, {"type": kind, "status": status, "reason": "because"}]
        return {"spec": {}, "status": {"conditions": conditions}}

    assert states.state_of(job("True")) == (state, "because")
    assert states.state_of(job("False")) == (State.ACTIVE, "")
    assert states.state_of({"spec": {"suspend": True}}) == (State.SUSPENDED, "")


@given(
    st.lists(st.tuples(st.integers(0, 5), st.text(alphabet="ab ", max_size=4)), max_size=30),
    st.lists(st.integers(0, 30), max_size=10),
)
def test_a_log_that_is_begun_again_anywhere_gives_every_line_once(gaps: list[tuple[int, str]], cuts: list[int]) -> None:
    """Lines have times of their own; a connection that is cut after some of them goes on from a whole second."""
    lines, tick = [], 0
    for gap, text in gaps:
        tick += gap + 1
        lines.append((tick, f"2026-01-01T00:{tick // 240:02}:{tick // 4 % 60:02}.{tick % 4 * 25:02}0000000Z {text}"))
    reader, given_lines = Reader("p", "main", None, say=print, silent=print), []
    for cut in [*sorted(cuts), len(lines)]:
        since = reader.where().get("sinceTime", "")[: len("2026-01-01T00:00:00")]
        for _, line in [entry for entry in lines[:cut] if entry[1] >= since]:
            text = reader.take(line)
            given_lines += [] if text is None else [text]
    assert given_lines == [text for _, text in gaps]


_LOG = "step 3\nfusery train: /store/x: node-0 trains here; wait for it\nW1201 torch says more\n"


def test_a_pod_that_failed_says_what_its_command_said() -> None:
    failed = ended(1)
    failed["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = _LOG
    text = states.of_pod(failed).text
    assert text == "ended with exit code 1: it failed: fusery train: /store/x: node-0 trains here; wait for it"
    assert states.of_pod(failed).is_end


@pytest.mark.parametrize("code", [130, 143])
def test_a_pod_that_was_stopped_says_so_and_no_line_of_its_log(code: int) -> None:
    stopped = ended(code)
    stopped["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = _LOG
    assert "trains here" not in states.of_pod(stopped).text


@pytest.mark.parametrize(
    ("component", "key"),
    [(name, f"kubernetes.{name}.resources.limits.memory") for name in ("run", "trainer", "evaluate")]
    + [("", "its limit of memory")],
)
def test_a_pod_out_of_memory_names_its_limit_and_the_key(component: str, key: str) -> None:
    killed = ended(137)
    killed["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    killed["metadata"]["labels"]["app.kubernetes.io/component"] = component
    killed["spec"] = {"containers": [{"name": "main", "resources": {"limits": {"memory": "8Gi"}}}]}
    said = f"it needed more memory than its limit of 8Gi (OOMKilled); raise {key}"
    assert states.of_pod(killed).text == f"ended with exit code 137: {said}"


def test_a_pod_that_its_node_evicted_says_why() -> None:
    evicted = ended(137)
    evicted["status"] |= {"reason": "Evicted", "message": "The node was low on resource: memory"}
    assert "Evicted: The node was low on resource: memory" in states.of_pod(evicted).text


@pytest.mark.parametrize(
    ("spec", "nodes"),
    [
        ({"completions": 3}, 3),
        ({"replicatedJobs": [{"template": {"spec": {"completions": 3}}}]}, 3),
        ({"trainer": {"numNodes": 3}}, 3),
        ({}, 1),
    ],
)
def test_the_nodes_of_every_kind_of_job_are_counted(spec: dict[str, Any], nodes: int) -> None:
    said = states.of_nodes({"spec": spec}, [pod(phase="Running"), pod(phase="Pending")])
    assert said == ("" if nodes == 1 else "1 of 3 nodes run, and wait for the others")

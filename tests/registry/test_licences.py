"""What licences ask of a run, by the table; and what they leave to a person."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.licences import (
    LICENCES,
    LicensedModel,
    Terms,
    conditions,
    licence_of_result,
    open_conditions,
)

IDS = st.sampled_from([*LICENCES, "some-licence", None])


def models(target: str | None, **sources: str | None) -> list[LicensedModel]:
    listed = {"target": target, **sources}
    return [LicensedModel(role, f"owner/{role}", licence, "README.md") for role, licence in listed.items()]


def asked(target: str | None, name: str = "tiny", **sources: str | None) -> list[str]:
    return [condition.model.role for condition in open_conditions(conditions(models(target, **sources), name), [])]


def test_free_licences_ask_nothing() -> None:
    assert conditions(models("apache-2.0", one="mit", other="bsd-3-clause"), "tiny") == []


@pytest.mark.parametrize("family", ["llama2", "llama3"])
def test_llama_2_and_3_may_improve_only_their_own_family(family: str) -> None:
    assert asked("apache-2.0", llama=family) == ["llama"]
    (condition,) = conditions(models("apache-2.0", llama=family), "Llama-3-tiny")
    assert "may not be used to improve any other large language model" in condition.says
    assert asked(family, name="Llama-3-tiny", llama=family, other="apache-2.0") == []


@pytest.mark.parametrize(("name", "expected"), [("tiny", ["llama"]), ("Llama-tiny", []), ("llama_tiny", [])])
def test_llama_3_1_wants_its_name_at_the_beginning(name: str, expected: list[str]) -> None:
    assert asked("apache-2.0", name, llama="llama3.1") == expected


def test_a_target_that_wants_its_name_asks_too() -> None:
    assert asked("llama3.2", "tiny") == ["target"]
    assert asked("llama3.2", "Llama-tiny") == []


def test_gemma_as_a_source_asks_and_as_the_target_of_free_sources_does_not() -> None:
    assert asked("apache-2.0", gemma="gemma") == ["gemma"]
    assert asked("gemma", other="apache-2.0") == []
    assert asked("gemma", gemma="gemma") == []


@pytest.mark.parametrize("licence", [None, "some-licence"])
def test_what_is_not_known_asks_whatever_its_role(licence: str | None) -> None:
    assert asked(licence, other="mit") == ["target"]
    assert asked("mit", other=licence) == ["other"]


@given(IDS, IDS, IDS)
def test_accepting_every_role_leaves_nothing_open(target: str | None, one: str | None, other: str | None) -> None:
    found = conditions(models(target, one=one, other=other), "tiny")
    assert open_conditions(found, ["target", "one", "other"]) == []
    ids = [licence or "unknown" for licence in (target, one, other)]
    assert open_conditions(found, ids) == []


@given(IDS, IDS)
def test_only_free_or_met_conditions_go_unasked(target: str | None, source: str | None) -> None:
    wanted = asked(target, source=source)
    row = LICENCES.get(source or "")
    if row is None or (row.terms is not Terms.FREE and source != target):
        assert "source" in wanted


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (models("mit", one="apache-2.0"), ("mit", None)),
        (models("apache-2.0", one="gemma"), ("gemma", None)),
        (models("llama2", one="gemma"), ("other", "llama2-and-gemma")),
        (models("apache-2.0", one=None), ("other", "unknown")),
    ],
)
def test_the_result_stands_under_all_terms_that_bind_it(
    listed: list[LicensedModel], expected: tuple[str, str | None]
) -> None:
    assert licence_of_result(listed) == expected

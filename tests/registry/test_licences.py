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
)

IDS = st.sampled_from([*LICENCES, "some-licence", None])


Ids = str | None | tuple[str | None, ...]


def models(target: Ids, **sources: Ids) -> list[LicensedModel]:
    listed = {"target": target, **sources}
    return [
        LicensedModel(role, f"owner/{role}", ids if isinstance(ids, tuple) else (ids,), "README.md")
        for role, ids in listed.items()
    ]


def asked(target: Ids, name: str = "tiny", **sources: Ids) -> list[str]:
    return [condition.model.role for condition in conditions(models(target, **sources), name) if not condition.met]


def forbidden(target: Ids, **sources: Ids) -> dict[str, tuple[str, ...]]:
    found = conditions(models(target, **sources), "tiny")
    return {condition.model.role: condition.forbids for condition in found if condition.forbids}


def test_free_licences_ask_nothing() -> None:
    assert conditions(models("apache-2.0", one="mit", other="bsd-3-clause"), "tiny") == []


@pytest.mark.parametrize("family", ["llama2", "llama3"])
def test_llama_2_and_3_may_improve_only_their_own_family(family: str) -> None:
    assert asked("apache-2.0", llama=family) == ["llama"]
    (condition,) = conditions(models("apache-2.0", llama=family), "Llama-3-tiny")
    assert "may not be used to improve any other large language model" in condition.says
    assert asked(family, name="Llama-3-tiny", llama=family, other="apache-2.0") == []
    assert forbidden("apache-2.0", llama=family) == {"llama": (family,)}
    assert forbidden(family, llama=family) == {}


@given(st.sampled_from([id for id in LICENCES if LICENCES[id].terms is not Terms.FAMILY_ONLY] + ["some", None]), IDS)
def test_no_other_terms_forbid_a_run(source: str | None, target: str | None) -> None:
    assert forbidden(target, one=source) == {}


def test_terms_that_forbid_are_found_beside_others_and_beside_what_is_not_known() -> None:
    found = forbidden("mit", one=("gemma", "llama2"), other=("llama3", None))
    assert found == {"one": ("llama2",), "other": ("llama3",)}


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


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((None,), "unknown"),
        (("mit", None), "unknown"),
        (("llama2", None), "llama2-and-unknown"),
        (("mit", "apache-2.0"), "mit"),
        (("apache-2.0", "llama2"), "llama2"),
        (("mit", "my-terms"), "my-terms"),
        (("gemma", "mit", "llama2", "gemma"), "gemma-and-llama2"),
    ],
)
def test_of_several_licences_of_a_model_all_that_bind_count(ids: tuple[str | None, ...], expected: str) -> None:
    assert models(ids)[0].id == expected


@given(st.lists(IDS, min_size=1))
def test_several_licences_ask_whenever_one_of_them_does(ids: list[str | None]) -> None:
    alone = [asked("mit", source=id) for id in ids]
    assert bool(asked("mit", source=tuple(ids))) == any(alone)


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
        (models("apache-2.0", one="my-terms"), ("other", "my-terms")),
    ],
)
def test_the_result_stands_under_all_terms_that_bind_it(
    listed: list[LicensedModel], expected: tuple[str, str | None]
) -> None:
    assert licence_of_result(listed) == expected

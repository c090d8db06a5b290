"""A registered version becomes the champion: a person's decision, held against the verdict."""

from __future__ import annotations

import pytest

from fusery.registry.promote import Promoted, Promotion, promote, version_of_run
from fusery.runtime.errors import InvalidInput
from support.runs.registrations import Make, Registration, measured

# MLflow and what it imports warn about each other's future.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def registration(tmp_path_factory: pytest.TempPathFactory, make_record: Make) -> Registration:
    return Registration(tmp_path_factory.mktemp("registry"), make_record)


def test_a_passed_candidate_becomes_champion_and_the_same_call_changes_nothing(registration: Registration) -> None:
    assert promote(Promotion("tiny"), registration.uri) == Promoted("tiny", "1", None, "passed")
    version = registration.client.get_model_version_by_alias("tiny", "champion")
    promoted_at = version.tags["fusery.promoted_at"]
    promote(Promotion("tiny", "1"), registration.uri)
    version = registration.client.get_model_version_by_alias("tiny", "champion")
    assert version.tags["fusery.promoted_at"] == promoted_at


def test_a_version_that_failed_is_promoted_only_with_a_reason_which_is_kept(registration: Registration) -> None:
    registration.register(run_id="forced-0", model_name="forced")
    promote(Promotion("forced"), registration.uri)
    registration.register(run_id="forced-1", model_name="forced", **measured(registration, passed=False))
    with pytest.raises(InvalidInput, match=r"forced version 2: Gate failed\. Not held: .* --force"):
        promote(Promotion("forced", "2"), registration.uri)
    with pytest.raises(InvalidInput, match="the reason is empty"):
        promote(Promotion("forced", "2", force=" "), registration.uri)
    forced = promote(Promotion("forced", "2", force="for the demo"), registration.uri)
    assert forced == Promoted("forced", "2", "1", "failed")
    version = registration.client.get_model_version_by_alias("forced", "champion")
    assert version.tags["fusery.promoted_because"] == "for the demo"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Promotion("absent"), "absent: no such registered model; there are: "),
        (Promotion("tiny", "99"), "tiny: no version '99'"),
        (Promotion("tiny", candidate_alias="tested"), "no version has the alias 'tested'"),
    ],
)
def test_what_is_not_there_cannot_be_promoted(asked: Promotion, message: str, registration: Registration) -> None:
    with pytest.raises(InvalidInput, match=message):
        promote(asked, registration.uri)


def test_the_version_of_a_run_is_found_by_its_id(registration: Registration) -> None:
    assert version_of_run("tiny", "tiny-0123456789", registration.uri) == "1"
    with pytest.raises(InvalidInput, match="run other is not registered as tiny"):
        version_of_run("tiny", "other", registration.uri)

"""Both majors of Helm; without them (`make chart-tools` fetches them) the tests that render the chart are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cluster.charts import CHART, EXAMPLES, ROOT, TOOLS, Helm


@pytest.fixture(params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest) -> Helm:
    """Each major in turn."""
    return _helm(request.param)


@pytest.fixture
def helm4() -> Helm:
    """The newer one, for tests of what both print alike: `test_both_majors_print_the_same`."""
    return _helm("helm4")


def _helm(name: str) -> Helm:
    binary = TOOLS / name
    if not binary.is_file():
        pytest.skip(f"{name} is not there; make chart-tools fetches it")
    return Helm(binary)


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> str:
    """Each set of values of `ci/` in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def chart() -> Path:
    return CHART

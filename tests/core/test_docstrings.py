from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from fusery import run_file, section
from fusery.core import alignment, batches, fusion, levenshtein, projection
from fusery.core.topk import TopK
from fusery.run_sections import AlignmentSpec


@pytest.mark.parametrize("module", [alignment, batches, fusion, levenshtein, projection, run_file, section])
def test_the_examples_of_docstrings_give_what_they_say(module: ModuleType) -> None:
    found = doctest.testmod(module, extraglobs={"TopK": TopK, "AlignmentSpec": AlignmentSpec})
    assert found.attempted > 0
    assert found.failed == 0

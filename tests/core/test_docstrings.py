from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from fusery.config import file as run_file
from fusery.config import section
from fusery.config.sections import AlignmentSpec
from fusery.core import alignment, batches, fusion, levenshtein, projection
from fusery.core.topk import TopK


@pytest.mark.parametrize("module", [alignment, batches, fusion, levenshtein, projection, run_file, section])
def test_the_examples_of_docstrings_give_what_they_say(module: ModuleType) -> None:
    found = doctest.testmod(module, extraglobs={"TopK": TopK, "AlignmentSpec": AlignmentSpec})
    assert found.attempted > 0
    assert found.failed == 0

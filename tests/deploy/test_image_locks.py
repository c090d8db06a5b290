"""The image's packages: locked at the versions of constraints.txt, every file by its hash."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

import pytest

from charts import ROOT

PROJECT = """
[project]
dependencies = ["numpy>=2.0"]
optional-dependencies = {worker = ["fusery[grpc]", "celery[redis]>=5.7"], dev = ["pytest"]}
"""
LOCK = "celery==5.7.0 \\\n    --hash=sha256:aa\nnumpy==2.4.6 \\\n    --hash=sha256:bb\n"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_lock_check", ROOT / "scripts/image_lock_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_locks_fit_what_the_project_asks_for(check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    code = check.main()
    assert (code, capsys.readouterr().err) == (0, "")


@pytest.mark.parametrize(
    ("lock", "constraints", "fault"),
    [
        (LOCK, "numpy==2.4.6\n", None),
        (LOCK, "numpy==2.4.7\n", "numpy is 2.4.6, constraints.txt says 2.4.7"),
        (LOCK.replace("2.4.6", "2.4.6+cpu"), "numpy==2.4.6\n", None),
        (LOCK.replace("    --hash=sha256:bb\n", ""), "", "numpy==2.4.6 has no hash"),
        (LOCK.partition("numpy")[0], "", "numpy is missing, pyproject.toml asks for it"),
    ],
)
def test_a_lock_that_does_not_fit_is_named(check: ModuleType, lock: str, constraints: str, fault: str | None) -> None:
    assert list(check.faults(lock, constraints, PROJECT)) == ([] if fault is None else [fault])


def test_the_cpu_image_has_no_cuda_and_both_have_the_same_torch() -> None:
    cpu, gpu = ((ROOT / f"locks/{name}.txt").read_text() for name in ("cpu", "gpu"))
    assert not re.search(r"^nvidia-", cpu, re.MULTILINE)
    assert re.search(r"^nvidia-", gpu, re.MULTILINE)
    versions = {re.findall(r"^torch==([0-9.]+)", lock, re.MULTILINE)[0] for lock in (cpu, gpu)}
    assert len(versions) == 1


def test_locks_name_no_place() -> None:
    """Packages come from whatever index the builder has."""
    for file in (ROOT / "locks").glob("*.txt"):
        assert not re.search(r"://|--index|--find-links|--trusted", file.read_text()), file


def test_what_the_image_is_built_from_is_in_its_context() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()
    }
    mounted = set(re.findall(r"type=bind,source=([^,\s]+)", dockerfile))
    assert copied | mounted == allowed


def test_the_image_runs_as_the_user_of_the_chart() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    values = (ROOT / "helm/fusery/values.yaml").read_text()
    (user,) = re.findall(r"^USER (\d+):\1$", dockerfile, re.MULTILINE)
    assert f"runAsUser: {user}\n" in values
    assert f"fsGroup: {user}\n" in values

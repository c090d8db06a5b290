"""The image's packages: locked at the versions of constraints.txt, every file by its hash."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from support.cluster.charts import ROOT

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


def test_what_setup_installs_has_a_hash_each_but_torch() -> None:
    constrained = re.findall(r"^([^#=\s]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    locked = re.findall(
        r"^([^=\s]+)==\S+ (?:; [^\\]+)?\\\n    --hash=sha256:", (ROOT / "locks/setup.txt").read_text(), re.M
    )
    assert {name.lower().replace("_", "-") for name in constrained} - set(locked) == {"torch"}
    script = (ROOT / "scripts/setup.sh").read_text()
    assert '--constraint "$root/locks/setup.txt"' in script
    assert '--require-hashes --requirement "$root/locks/uv.txt"' in script


@pytest.mark.parametrize("is_right", [True, False])
def test_a_hash_of_a_constraint_holds_for_what_another_package_asks_for(tmp_path: Path, is_right: bool) -> None:
    wheels = {name: _wheel(tmp_path, name, needs) for name, needs in (("one", "two"), ("two", None))}
    digest = hashlib.sha256(wheels["two"].read_bytes()).hexdigest() if is_right else "0" * 64
    lock = tmp_path / "lock.txt"
    lock.write_text(f"two==1.0 \\\n    --hash=sha256:{digest}\n")
    options = [
        "--offline",
        "--no-index",
        "--no-cache",
        "--find-links",
        str(tmp_path),
        "--target",
        str(tmp_path / "there"),
    ]
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", *options, "--python", sys.executable, "--constraint", str(lock), "one"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is is_right, done.stderr
    assert ("Hash mismatch for `two==1.0`" in done.stderr) is not is_right


def _wheel(folder: Path, name: str, needs: str | None) -> Path:
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *([f"Requires-Dist: {needs}"] if needs else [])]
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


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

"""Whether locks/ still fit: versions of constraints.txt, hashes everywhere, all packages that pyproject.toml names."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)
_LEFT_OUT = ("dev",)
_REMEDY = "run scripts/image_lock.sh and commit the result"


def pins(text: str) -> dict[str, str]:
    """Versions by package, without the part that names a build, such as +cpu."""
    return {_normal(name): version.partition("+")[0] for name, version in _PIN.findall(text)}


def faults(lock: str, constraints: str, project: str, apart: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with a lock; one sentence each. `apart`: packages that it leaves out."""
    locked, wanted = pins(lock), pins(constraints)
    for name, version in locked.items():
        if wanted.get(name, version) != version:
            yield f"{name} is {version}, constraints.txt says {wanted[name]}"
    for block in re.split(r"\n(?=\S)", lock):
        if _PIN.match(block) and "--hash=sha256:" not in block:
            yield f"{block.split()[0]} has no hash"
    for name in sorted(_required(project) - locked.keys() - {*apart}):
        yield f"{name} is missing, pyproject.toml asks for it"


def _required(project: str) -> set[str]:
    """Packages of the image; what it leaves out, and why: image_lock.sh."""
    content = tomllib.loads(project)["project"]
    extras = content["optional-dependencies"]
    of_image = [
        *content["dependencies"],
        *(one for extra, ones in extras.items() if extra not in _LEFT_OUT for one in ones),
    ]
    names = {_normal(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in of_image}
    return names - {"fusery"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    constraints, project = ((ROOT / name).read_text() for name in ("constraints.txt", "pyproject.toml"))
    found = 0
    for file, apart in {"cpu.txt": (), "gpu.txt": (), "setup.txt": ("torch",)}.items():
        for fault in faults((ROOT / "locks" / file).read_text(), constraints, project, apart):
            found += 1
            print(f"locks/{file}: {fault}; {_REMEDY}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Helm for the chart's tests, and what it renders: both majors, fetched by `scripts/chart_tools.sh`."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "fusery"
TOOLS = ROOT / ".cache" / "chart-tools"
EXAMPLES = tuple(sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml")))

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What `helm template` prints: manifests, and the chart's own message of a refusal."""

    manifests: tuple[Manifest, ...]
    error: str

    def of(self, kind: str, name: str | None = None) -> list[Manifest]:
        """Manifests of a kind; of one name, without the release's part of it, if it is given."""
        found = [manifest for manifest in self.manifests if manifest["kind"] == kind]
        return [
            manifest for manifest in found if name in (None, manifest["metadata"]["name"].removeprefix("demo-fusery-"))
        ]

    def one(self, kind: str, name: str) -> Manifest:
        (found,) = self.of(kind, name)
        return found

    def pods(self) -> list[tuple[str, Manifest, Manifest]]:
        """Name, metadata and spec of everything that becomes a pod."""
        bare = [(pod["metadata"]["name"], pod["metadata"], pod["spec"]) for pod in self.of("Pod")]
        made = [(owner["metadata"]["name"], owner["spec"]["template"]) for owner in self.of("Deployment")]
        return bare + [(name, template["metadata"], template["spec"]) for name, template in made]


class Helm:
    """One major version of Helm, on this repository's chart."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary

    def template(
        self,
        example: str | None = None,
        values: Mapping[str, Any] | None = None,
        release: str = "demo",
        options: Sequence[str] = (),
    ) -> Rendered:
        """The chart with the values of an example, of `ci/`, and `values` over them."""
        given = yaml.safe_dump(dict(values or {}))
        return _template(self.binary, example, given, release, tuple(options))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.binary, *arguments], capture_output=True, text=True, timeout=60, check=False)


@functools.cache
def _template(binary: Path, example: str | None, values: str, release: str, options: tuple[str, ...]) -> Rendered:
    files = ["--values", str(CHART / "ci" / f"{example}-values.yaml")] if example is not None else []
    command = [str(binary), "template", release, str(CHART), "--namespace", "ml", *files, "--values", "-", *options]
    done = subprocess.run(command, input=values, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        return Rendered((), done.stderr)
    return Rendered(tuple(part for part in yaml.safe_load_all(done.stdout) if part is not None), "")


def container(spec: Manifest) -> Manifest:
    (only,) = spec["containers"]
    found: Manifest = only
    return found


def variables(spec: Manifest) -> dict[str, Any]:
    """The environment of a pod's container: a value, or where it comes from."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(spec).get("env", [])}

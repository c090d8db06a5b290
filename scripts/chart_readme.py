"""Writes helm/fusery/README.md from Chart.yaml and the comments of values.yaml; with --check only compares.

A comment that begins with `# --` belongs to the key below it and becomes one row of the table.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent.parent / "helm" / "fusery"
_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):(?: |$)")
_HEAD = """\
# fusery

{description}. What runs once, a run and its training, is in [k8s/](../../k8s/); sizing, security, upgrade and backup
are in [docs/deployment.md](../../docs/deployment.md). Version {version} of the chart, {app_version} of fusery,
Helm 3.17 or 4, Kubernetes {kubernetes}.

```sh
helm install fusery helm/fusery --namespace ml --create-namespace --values my-values.yaml
helm test fusery --namespace ml --logs
```

```yaml
# my-values.yaml: an LLM is four lines
image: {{repository: registry.example.com/ml/fusery}}
sources:
  mistral:
    model: mistralai/Mistral-7B-v0.1
    revision: 27d67f1b5f57dc0953326b2601d68371d40ea8da
    gpus: 1
```

The files in `ci/` are complete examples: {examples}.

## Values

Generated from values.yaml by `make chart-readme`.

| key | default | meaning |
|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One documented key, its path joined with dots."""

    path: str
    meaning: str


def rows(text: str) -> Iterator[Row]:
    """Documented keys in the order of the file."""
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            said = stripped.removeprefix("#").strip()
            if said.startswith("--"):
                comment = [said.removeprefix("--").strip()]
            elif comment:
                comment.append(said)
            continue
        key = _KEY.match(line)
        if key is not None:
            path = [(depth, name) for depth, name in path if depth < len(key[1])] + [(len(key[1]), key[2])]
            if comment:
                yield Row(".".join(name for _, name in path), " ".join(comment))
        comment = []


def readme() -> str:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    examples = [path.name.removesuffix("-values.yaml") for path in sorted((CHART / "ci").glob("*-values.yaml"))]
    head = _HEAD.format(
        description=chart["description"],
        version=chart["version"],
        app_version=chart["appVersion"],
        kubernetes=chart["kubeVersion"].removesuffix("-0").removeprefix(">=") + " or newer",
        examples=", ".join(examples),
    )
    return head + "".join(
        f"| `{row.path}` | `{_shown(_value(values, row.path))}` | {row.meaning} |\n" for row in rows(text)
    )


def _value(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("|", "\\|")


def main() -> int:
    file, made = CHART / "README.md", readme()
    if "--check" not in sys.argv[1:]:
        file.write_text(made, encoding="utf-8")
        return 0
    if not file.is_file() or file.read_text(encoding="utf-8") != made:
        print(f"{file}: not what values.yaml says; run make chart-readme and commit the result", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

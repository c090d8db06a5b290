#!/usr/bin/env bash
# Creates the virtual environment VENV and installs fusery with all extras, at the versions of constraints.txt and with the
# hashes of locks/. torch alone is taken as it comes: from an index, or as a file that you have put beside it.
set -euo pipefail
venv=${1:?usage: setup.sh VENV}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "setup: $python is $("$python" --version); fusery needs Python 3.11 or newer (set PYTHON=…)" >&2; exit 2; }
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
  { echo "setup: $python has no venv module; on Debian: apt-get install python3-venv" >&2; exit 2; }

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement "$root/locks/uv.txt"

# uv does not read pip's configuration: where that names a folder of wheels (a CPU build of torch), hand it on.
if [ -z "${UV_FIND_LINKS:-}" ]; then
  links=$("$venv/bin/python" -m pip config list 2>/dev/null | sed -nE "s/^[^=]*find-links='(.*)'$/\1/p" | head -n 1)
  [ -z "$links" ] || export UV_FIND_LINKS=$links
fi
# On a machine of your own without a GPU: `TORCH_BACKEND=cpu make setup` takes torch's small CPU build.
backend=()
[ -z "${TORCH_BACKEND:-}" ] || backend=(--torch-backend "$TORCH_BACKEND")

echo "setup: installing fusery and its dependencies into $venv (about 1.7 GB)" >&2
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" "${backend[@]}" \
  --constraint "$root/constraints.txt" --constraint "$root/locks/setup.txt" \
  --build-constraint "$root/locks/build.txt" --build-constraint "$root/locks/setup.txt" --editable "$root[dev]"
touch "$venv/.fusery-installed"

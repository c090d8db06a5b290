#!/usr/bin/env bash
# Writes locks/: every package of the image, and of `make setup`, at the version of constraints.txt, with the hashes of all
# its files.
#
# With --check it only says whether the locks still have those versions and all packages of pyproject.toml, without
# network. torch comes from two places: its CPU build from a folder or index of wheels (UV_FIND_LINKS, or what pip's
# configuration names; --torch-backend cpu otherwise), its CUDA build from the package index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=${BIN:-.venv/bin}

if [[ ${1:-} == --check ]]; then
  exec "$bin/python" scripts/image_lock_check.py
fi

links=${UV_FIND_LINKS:-$("$bin/python" -m pip config list 2>/dev/null | sed -nE "s/^[^=]*find-links='(.*)'$/\1/p" | head -n 1)}
compile=("$bin/uv" pip compile --quiet --no-header --no-annotate --generate-hashes
  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --constraint constraints.txt)
# Every extra is a role of the image, but that of development. Three packages of task suites come as source alone, and the
# image runs no package's build: the few tasks that ask for them (truthfulqa_gen, bbh, …) say so.
all=("${compile[@]}")
for name in rouge-score sqlitedict word2number; do compile+=(--no-emit-package "$name"); done
extras=()
for name in $("$bin/python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"])'); do
  [[ $name == dev ]] || extras+=(--extra "$name")
done
if [[ -n $links ]]; then cpu=(--find-links "$links"); else cpu=(--torch-backend cpu); fi
mkdir -p locks
"${compile[@]}" "${extras[@]}" "${cpu[@]}" pyproject.toml --output-file locks/cpu.txt
"${compile[@]}" "${extras[@]}" pyproject.toml --output-file locks/gpu.txt
echo hatchling | "${compile[@]}" - --output-file locks/build.txt
# torch is left out: each machine has the build that fits it, from an index or as a file that somebody put there.
"${all[@]}" --extra dev "${cpu[@]}" --no-emit-package torch pyproject.toml --output-file locks/setup.txt
grep '^uv==' locks/uv.txt | cut -d' ' -f1 | "${all[@]}" - --output-file locks/uv.txt

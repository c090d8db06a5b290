#!/usr/bin/env bash
# Regenerates services/fusery/source/pb from proto/; with --check only compares, and fails on a difference.
#
# protoc writes imports by the path of the .proto file. Ours lie in fusery/distributions/v1, the generated
# code in fusery.source.pb, so the one absolute import of the gRPC stub is rewritten.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3
target=services/fusery/source/pb
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

"$python" -m grpc_tools.protoc --proto_path=proto \
  --python_out="$made" --pyi_out="$made" --grpc_python_out="$made" \
  proto/fusery/distributions/v1/distributions.proto
mv "$made"/fusery/distributions/v1/* "$made"/
rm -r "$made/fusery"
sed -i 's/^from fusery\.distributions\.v1 import /from fusery.source.pb import /' "$made/distributions_pb2_grpc.py"
printf '"""Generated from proto/ by scripts/proto.sh; never edited by hand."""\n' >"$made/__init__.py"

if [[ ${1:-} == --check ]]; then
  if ! diff -ru --exclude=__pycache__ "$target" "$made"; then
    echo "proto: $target is not what proto/ generates; run make proto and commit the result" >&2
    exit 1
  fi
else
  mkdir -p "$target"
  cp "$made"/* "$target"/
fi

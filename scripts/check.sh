#!/usr/bin/env bash
# Everything that can be said about the code without running it. Fails at the first finding of each tool, after all ran.
set -uo pipefail
failed=0
step() { echo "check: $*" >&2; "$@" || failed=1; }
step ruff format --check .
step ruff check .
step mypy
step lint-imports
step scripts/proto.sh --check
step python scripts/k8s.py --check
step diff <(fusery schema) docs/run-schema.json
exit "$failed"

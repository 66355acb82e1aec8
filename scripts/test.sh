#!/usr/bin/env bash
# Creates .venv with the test extra and checks the code: lint, format, import contract, types,
# tests. Arguments go to pytest, e.g. -m slow. VENV, PYTHON and TF are those of setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test

bin=${VENV:-.venv}/bin
"$bin/ruff" check --quiet .
"$bin/ruff" format --quiet --check .
"$bin/lint-imports" --no-logo
"$bin/mypy"
exec "$bin/python" -m pytest "$@"

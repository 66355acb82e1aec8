#!/usr/bin/env bash
# Makes .venv with the test extra and runs pytest; arguments go to pytest, as -m slow.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test
exec .venv/bin/python -m pytest "$@"

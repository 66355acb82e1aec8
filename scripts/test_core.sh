#!/usr/bin/env bash
# Runs a core of the tests in minutes: kernels, steps, checkpoints, command lines, the quickstart.
# VENV, PYTHON and TF are those of setup.sh; with TF=0, tests that need TensorFlow are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test
exec "${VENV:-.venv}/bin/python" -m pytest tests/kernels tests/test_steps.py tests/test_main.py \
    tests/resilience/test_checkpoint.py tests/tools/test_command.py tests/runs/test_quickstart.py "$@"

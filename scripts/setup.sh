#!/usr/bin/env bash
# Makes .venv and installs the package into it, with an extra if one is named: setup.sh [test]
# PYTHON chooses the interpreter (3.11 or newer). Run again it only brings .venv up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $python is missing or older than Python 3.11; name another: PYTHON=python3.12 $0" >&2
    exit 1
fi
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "$python" -m venv .venv
    echo "installing into .venv: a few minutes and 2.5 GB"
fi
.venv/bin/python -m pip install -qq --disable-pip-version-check --editable ".${1:+[$1]}"

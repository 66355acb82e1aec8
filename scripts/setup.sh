#!/usr/bin/env bash
# Creates .venv and installs the package into it: setup.sh [EXTRA...], e.g. setup.sh test
#
# Rerunning it brings .venv up to date. Environment variables:
#   PYTHON  the interpreter; otherwise python3 if it is 3.11 or newer, else the newest one found
#   TF=0    install without TensorFlow, a third of the size: CIFAR is then read from files that
#           scripts/prepare_data.py has prepared, and there are no tf.data pipelines, image folders
#           or TensorBoard logs
#   VENV    the virtual environment, .venv by default
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${VENV:-.venv}
usable() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=${PYTHON:-python3}
    if ! usable "$python" && [ -z "${PYTHON:-}" ]; then
        python=$(bash scripts/find_pythons.sh | tail -n 1 | cut -d " " -f 2-)
    fi
    if [ -z "$python" ] || ! usable "$python"; then
        echo "error: ${PYTHON:-python3} is missing, broken or older than Python 3.11;" \
            "name another interpreter, e.g. PYTHON=python3.12 $0" >&2
        exit 1
    fi
    rm -rf "$venv"
    "$python" -m venv "$venv"
    echo "installing into $venv with $("$python" --version): a minute or two," \
        "2.5 GB with TensorFlow, 0.9 GB without"
fi

install() { "$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable ".${1:+[$1]}"; }

extras=$(IFS=,; echo "$*")
if [ "${TF:-1}" = 0 ]; then
    install "$extras"
elif ! install "tf${extras:+,$extras}"; then
    echo "warning: TensorFlow cannot be installed here (see above); installing without it" >&2
    TF=0
    install "$extras"
fi
if [ "${TF:-1}" = 0 ] && ! "$venv/bin/python" -c "
import importlib.util, sys
sys.exit(importlib.util.find_spec('tensorflow') is None)"; then
    echo "installed without TensorFlow: no tf.data pipelines, image folders or TensorBoard logs"
fi

#!/usr/bin/env bash
# Prints the Python interpreters that can run this project, one "VERSION PATH" per line, oldest
# first: 3.11 or newer, able to create virtual environments, and working (the shims of version
# managers can fail when run). Searches PATH and pyenv's versions; one interpreter per version.
set -euo pipefail

check='
import sys, ensurepip, venv
usable = sys.version_info >= (3, 11) and sys.version_info.releaselevel == "final"
if usable and sys.prefix == sys.base_prefix:  # a virtual environment may be deleted any time
    print("%d.%d" % sys.version_info[:2], sys.executable)
'
IFS=: read -ra folders <<<"$PATH"
for folder in "${folders[@]}" "${PYENV_ROOT:-${HOME:-/}/.pyenv}"/versions/*/bin; do
    for python in "$folder"/python3 "$folder"/python3.[0-9] "$folder"/python3.[0-9][0-9]; do
        if [ -x "$python" ]; then
            "$python" -c "$check" 2>/dev/null || true
        fi
    done
done | sort -t. -k2,2n -s -u

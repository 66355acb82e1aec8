#!/usr/bin/env bash
# Measures and proves this project on one machine, for its results to be recorded:
#
#     bash scripts/prove.sh OUT [PYTHON_WITH_PYTORCH] [-- FLAGS_OF_MAIN]
#
# the benchmark, beside PyTorch if an interpreter with it is named; then ResNet-56 to its end with
# three seeds, and ResNet-18. Run again after a cut it goes on: a finished part is not repeated.
# OUT gets benchmark/, and a directory for each run with metrics.csv, manifest.json (hardware,
# versions, commit, command, final accuracy) and checkpoints/; last comes a table of the runs. To see
# that it works, in minutes and without data, put before the command:
# FORM=:smoke BENCHMARK_FLAGS="--models resnet8@8 --seconds 0.2"
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:?"usage: bash scripts/prove.sh OUT [PYTHON_WITH_PYTORCH] [-- FLAGS]"}
shift
peer=()
if [ $# -gt 0 ] && [ "$1" != -- ]; then
    peer=(--peer torch --peer_python "$1")
    shift
fi
[ "${1:-}" = -- ] && shift
python=${PYTHON:-.venv/bin/python}

code=0
if ! grep -qs '"finished": true' "$out/benchmark/benchmark.json"; then
    # A task that fails there, without TensorFlow say, does not hold up the trainings.
    "$python" scripts/benchmark/benchmark.py --out "$out/benchmark" "${peer[@]}" ${BENCHMARK_FLAGS:-} || code=$?
fi
for seed in 0 1 2; do
    "$python" -m jaxcifar.main --config "configs/resnet56.py${FORM:-}" --workdir "$out/resnet56_seed$seed" \
        --config.train.seed="$seed" "$@"
done
"$python" -m jaxcifar.main --config "configs/resnet18.py${FORM:-}" --workdir "$out/resnet18" "$@"
"$python" -m jaxcifar.tools.report --runs "$out"
exit $code

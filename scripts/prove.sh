#!/usr/bin/env bash
# Runs the benchmark and the reference trainings on one machine and records the results:
#
#     bash scripts/prove.sh OUT [PYTHON_WITH_PYTORCH] [-- FLAGS_OF_MAIN]
#
# First comes the benchmark, beside PyTorch if an interpreter that has it is given; then ResNet-56
# with three seeds and ResNet-18, all to the end. Rerunning the command resumes where it stopped;
# finished parts are not repeated. OUT receives benchmark/ and a directory per run with metrics.csv,
# manifest.json (hardware, versions, commit, command, final accuracy) and checkpoints/; a table of
# the runs is printed at the end. To try it in minutes and without data, put before the command:
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
    # A benchmark task that fails, e.g. without TensorFlow, does not stop the trainings.
    "$python" scripts/benchmark/benchmark.py --out "$out/benchmark" "${peer[@]}" ${BENCHMARK_FLAGS:-} || code=$?
fi
for seed in 0 1 2; do
    "$python" -m jaxcifar.main --config "configs/resnet56.py${FORM:-}" --workdir "$out/resnet56_seed$seed" \
        --config.train.seed="$seed" "$@"
done
"$python" -m jaxcifar.main --config "configs/resnet18.py${FORM:-}" --workdir "$out/resnet18" "$@"
"$python" -m jaxcifar.tools.report "$out"
exit $code

#!/usr/bin/env bash
# From nothing to a trained network: makes .venv, installs, and trains on embedded data (a minute).
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh

config=configs/quickstart.py
.venv/bin/python -m jaxcifar.main --config $config
cat <<END

What to try next, after  source .venv/bin/activate
  evaluate it again:      python -m jaxcifar.main --config $config --mode eval
  change a field:         python -m jaxcifar.main --config $config \\
                              --workdir runs/lr0.05 --config.optimizer.learning_rate=0.05
  He et al. on CIFAR-10:  python -m jaxcifar.main --config configs/resnet20.py
END

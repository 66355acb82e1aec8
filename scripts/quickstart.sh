#!/usr/bin/env bash
# From a fresh checkout to a trained network: creates .venv, installs the package, and trains on a
# small bundled dataset for about a minute. PYTHON, TF and VENV are those of setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh figures

config=configs/quickstart.py
"${VENV:-.venv}/bin/python" -m jaxcifar.main --config $config
cat <<END

What to try next, after  source ${VENV:-.venv}/bin/activate
  evaluate it again:      jaxcifar eval --config $config
  change a field:         jaxcifar train --config $config --workdir runs/lr0.05 \\
                              --config.optimizer.learning_rate=0.05
  see all commands:       jaxcifar --help
  He et al. on CIFAR-10:  python -m jaxcifar.main --config configs/resnet20.py
END

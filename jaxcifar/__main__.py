"""Runs `python -m jaxcifar` as the `jaxcifar` command."""

from jaxcifar.tools.command import main

if __name__ == "__main__":
    main()

"""Runs the command line: `python -m safety_lightning`."""

from safety_lightning.cli import main

if __name__ == "__main__":
    main()

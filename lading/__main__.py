"""``python3 -m lading COMMAND …``: the command ``lading`` without an installation."""

import sys

from lading.cli import run_main
from lading.cli.main import main

if __name__ == "__main__":
    sys.exit(run_main(main))

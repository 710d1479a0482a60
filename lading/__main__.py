"""``python3 -m lading COMMAND …``: the command ``lading`` without an installation."""

import sys

from lading.cli.main import main
from lading.core.command_line import run_main

if __name__ == "__main__":
    sys.exit(run_main(main))

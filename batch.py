#!/usr/bin/env python3
"""Plan batches of a size tree. The flags are those of ``lading batch``."""

import sys

from lading.cli.main import stage_main
from lading.core.command_line import run_main

main = stage_main("batch")

if __name__ == "__main__":
    sys.exit(run_main(main))

#!/usr/bin/env python3
"""Send the batches of a plan to a bucket and verify each object. The flags are those of ``lading upload``."""

import sys

from lading.cli.main import stage_main
from lading.core.command_line import run_main

main = stage_main("upload")

if __name__ == "__main__":
    sys.exit(run_main(main))

#!/usr/bin/env python3
"""Crawl a directory into a size tree. The flags are those of ``lading find``."""

import sys

from lading.cli.main import stage_main
from lading.core.command_line import run_main

main = stage_main("find")

if __name__ == "__main__":
    sys.exit(run_main(main))

"""``python3 -m lading COMMAND …``: the command ``lading`` without an installation."""

from lading.cli.main import run

if __name__ == "__main__":
    run()

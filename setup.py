"""What pyproject.toml cannot say: a wheel carries the commit and the lock that it was built from."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))  # the build runs elsewhere


class BuildPy(build_py):
    """Copies the modules, and writes down what they are."""

    def run(self) -> None:
        """Build, and nothing of what an earlier version left in the build's folder."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if self.editable_mode:
            return  # there it runs from the checkout, which says what it is
        from lading.core.version import write_built

        write_built(Path(self.build_lib) / "lading" / "core")


setup(cmdclass={"build_py": BuildPy})

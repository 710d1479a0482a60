"""Locales that no test machine has: made by localedef in a directory of their own.

Input: a directory. Output: the environment of a process in such a locale.
Invariant: nothing outside the directory changes.
"""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import need, need_program

# By name: what localedef makes it of, and what is set beside LC_ALL.
MADE = {"en_US.ISO-8859-1": ("en_US", "ISO-8859-1"), "ja_JP.eucJP": ("ja_JP", "EUC-JP")}
PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
# POSIX twice: as it is, and as a site has it that switched off what Python does for it.
LOCALES = ("C", "POSIX", "C.UTF-8", *MADE)


def environment(name: str, directory: Path) -> dict[str, str]:
    """Return the variables that put a process into a locale; makes it when it must."""
    if name not in MADE:
        return {"LC_ALL": name, **(PLAIN if name == "POSIX" else {})}
    need_program("localedef")
    source, charset = MADE[name]
    need(None if Path("/usr/share/i18n/charmaps").exists() else "not installed: locales")
    target = directory / name
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(["localedef", "-i", source, "-f", charset, str(target)], check=False, capture_output=True)
    return {"LC_ALL": name, "LOCPATH": str(directory)}


@pytest.fixture(scope="session")
def locale_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the locales of a test run lie."""
    return tmp_path_factory.mktemp("locales")

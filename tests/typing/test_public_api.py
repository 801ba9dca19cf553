"""Both type checkers agree that the public API means what `public_api.py` says."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKERS = [
    pytest.param(["mypy", "--strict", "tests/typing/public_api.py"], id="mypy"),
    pytest.param(["pyright", "tests/typing/public_api.py"], id="pyright"),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("words", CHECKERS)
def test_the_public_api_is_typed(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr

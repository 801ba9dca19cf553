"""Logs as text and as objects."""

import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from truecopy_services import Settings
from truecopy_services.cli import main
from truecopy_services.errors import SettingError
from truecopy_services.logs import configure


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The root logger of the other tests."""
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = root.handlers[:]
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_object_a_line_has_fields_of_its_own_and_errors_as_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "INFO")
    try:
        raise ValueError("bad\nnews")
    except ValueError:
        logging.getLogger("a").exception("%s halts", "b@1", extra={"partition": 3, "level": "mine"})
    logging.getLogger("a").info("well")
    logging.getLogger("a").debug("too quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)

    halts, well, old = map(json.loads, capsys.readouterr().err.splitlines())
    assert (halts["level"], halts["logger"], halts["message"], halts["partition"]) == ("ERROR", "a", "b@1 halts", 3)
    assert halts["error"] == "ValueError"
    assert halts["traceback"].endswith("ValueError: bad\nnews")
    assert well.keys() == {"time", "level", "logger", "message"}
    assert well["time"].endswith("+00:00")
    assert (old["logger"], old["level"]) == ("py.warnings", "WARNING")


def test_what_a_command_ends_with_is_an_object_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRUECOPY_LOG_FORMAT", "json")
    monkeypatch.setenv("TRUECOPY_LOG_LEVEL", "ERROR")

    assert main(["publish", "tests.services.bank", "Nothing", "k", "{}"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["level"], said["error"], said["exit"]) == ("ERROR", "UsageError", 2)


def test_text_is_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text", "WARNING")
    logging.getLogger("a").warning("%s", "news", extra={"partition": 3})

    assert capsys.readouterr().err == "WARNING a: news\n"


@pytest.mark.parametrize(("name", "value"), [("LOG_LEVEL", "loud"), ("LOG_FORMAT", "xml")])
def test_another_level_or_format_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TRUECOPY_{name}", value)

    with pytest.raises(SettingError, match=f"TRUECOPY_{name}"):
        Settings.load()

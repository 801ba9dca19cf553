"""Settings from arguments, environment, secrets and a file: who wins, and what is said of what can't work."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truecopy_services import Settings, Truecopy
from truecopy_services.cli import main
from truecopy_services.errors import SettingError
from truecopy_services.sources import misspelt

SECRET = "hunter2"
FILES = [
    pytest.param('lease_s = "hunter2"', ("TRUECOPY_LEASE_S", "key 'lease_s' of truecopy.toml"), id="a value"),
    pytest.param('leases_s = "hunter2"', ("'leases_s'", "truecopy.toml", "'lease_s'"), id="a misspelt key"),
    pytest.param('truecopy_lease_s = "hunter2"', ("'truecopy_lease_s'", "'lease_s'"), id="a key with the prefix"),
    pytest.param('frob = "hunter2"', ("'frob'", "no such setting"), id="an unknown key"),
    pytest.param('lease_s = 1\n[truecopy]\nlog = "hunter2"', ("'lease_s'", "outside of the table"), id="outside of the table"),
    pytest.param('log = "hunter2"\nlease_s = hunter2', ("truecopy.toml", "line 2"), id="no TOML"),
    pytest.param("[kafka_password]\nx = 'hunter2'", ("TRUECOPY_KAFKA_PASSWORD", "key 'kafka_password'"), id="a table"),
    pytest.param('log = "hunter2"', ("TRUECOPY_LOG", "key 'log' of truecopy.toml"), id="an address that is none"),
    pytest.param('replica = "hunter2"', ("TRUECOPY_REPLICA", "key 'replica' of truecopy.toml"), id="a database that is none"),
]
SECRETS: list[Any] = [
    pytest.param({"lease_s": b"hunter2"}, ("TRUECOPY_LEASE_S", "file secrets/lease_s"), id="a value"),
    pytest.param({"lease_s": b"1", "truecopy_lease_s": b"1"}, ("TRUECOPY_LEASE_S", "both there"), id="twice"),
    pytest.param({"kafka_password": b"\xff"}, ("TRUECOPY_KAFKA_PASSWORD", "file secrets/kafka_password"), id="no text"),
    pytest.param({"kafka_password": None}, ("file secrets/kafka_password", "can't be read"), id="a folder"),
    pytest.param({"kafka_password": b"x" * 2_000_000}, ("file secrets/kafka_password", "larger"), id="too large"),
    pytest.param({"replica": b"hunter2"}, ("TRUECOPY_REPLICA", "file secrets/replica"), id="an address that is none"),
]
Write = Callable[..., None]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TRUECOPY_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write files into a folder of secrets, which the environment then names. None is a folder in place of a file."""

    def write(**files: bytes | None) -> None:
        folder = Path("secrets")
        folder.mkdir()
        for name, content in files.items():
            (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)
        monkeypatch.setenv("TRUECOPY_SECRETS_DIR", "secrets")

    return write


def password(settings: Settings) -> str:
    assert settings.kafka_password is not None
    return settings.kafka_password.get_secret_value()


def test_an_argument_wins_over_the_environment_over_a_secret_over_the_file(
    monkeypatch: pytest.MonkeyPatch, secrets: Write
) -> None:
    for names in ([], ["file"], ["file", "secret"], ["file", "secret", "environment"]):
        if "file" in names:
            Path("truecopy.toml").write_text('namespace = "file"\nlease_s = 7\n')
        if "secret" in names and not Path("secrets").exists():
            secrets(namespace=b"secret", others=b"left alone")
        if "environment" in names:
            monkeypatch.setenv("TRUECOPY_NAMESPACE", "environment")

        assert Settings.load().namespace == (names or [""])[-1]
        assert Settings.load(namespace="argument").namespace == "argument"
        assert Truecopy("bank", namespace="argument").settings().namespace == "argument"
    assert Settings.load().lease_s == 7


def test_one_newline_at_the_end_of_a_secret_is_none_of_it(secrets: Write) -> None:
    secrets(truecopy_kafka_password=b" p \n\r\n")

    assert password(Settings.load()) == " p \n"


def test_a_file_that_the_environment_names_wins_over_the_one_here_and_must_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("truecopy.toml").write_text("lease_s = 7")
    other = tmp_path / "other.toml"
    other.write_text("[truecopy]\nlease_s = 8\n[somebody]\nelse = 1\n")
    monkeypatch.setenv("TRUECOPY_CONFIG", str(other))
    assert Settings.load().lease_s == 8
    other.unlink()

    with pytest.raises(SettingError, match=r"TRUECOPY_CONFIG \(file .*other\.toml\): it can't be read"):
        Settings.load()


@pytest.mark.parametrize(("text", "told"), FILES)
def test_what_is_wrong_in_the_file_is_named_with_its_place_and_no_value(text: str, told: tuple[str, ...]) -> None:
    Path("truecopy.toml").write_text(text)

    with pytest.raises(SettingError) as fault:
        opening()

    assert [words for words in told if words not in str(fault.value)] == []
    assert SECRET not in str(fault.value)


@pytest.mark.parametrize(("files", "told"), SECRETS)
def test_what_is_wrong_with_a_secret_is_named_with_its_file_and_no_value(
    secrets: Write, files: dict[str, bytes | None], told: tuple[str, ...]
) -> None:
    secrets(**files)

    with pytest.raises(SettingError) as fault:
        opening()

    assert [words for words in told if words not in str(fault.value)] == []
    assert SECRET not in str(fault.value)


def test_the_environment_and_arguments_are_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("truecopy.toml").write_text("lease_s = 7\nlog = 'sqlite:x'")
    monkeypatch.setenv("TRUECOPY_LEASE_S", SECRET)
    with pytest.raises(SettingError, match=r"TRUECOPY_LEASE_S \(environment variable\)"):
        Settings.load()
    monkeypatch.setenv("TRUECOPY_LEASE_S", "1")
    for app in (
        Truecopy("bank", log=SECRET),
        Truecopy("bank", settings=Settings(log=SECRET)),
        Truecopy("bank", settings=Settings(), log=SECRET),
    ):
        with pytest.raises(SettingError, match=r"TRUECOPY_LOG \(argument\)"):
            opening(app)


def test_a_folder_of_secrets_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUECOPY_SECRETS_DIR", "nowhere")

    with pytest.raises(SettingError, match=r"TRUECOPY_SECRETS_DIR.*nowhere can't be read"):
        Settings.load()


def test_a_misspelt_variable_is_told_once_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRUECOPY_LEASSE_S", SECRET)
    monkeypatch.setattr("truecopy_services.sources._warned", set())
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        opening()

    (said,) = [record.getMessage() for record in caplog.records]
    assert "TRUECOPY_LEASSE_S" in said
    assert "did you mean TRUECOPY_LEASE_S?" in said
    assert SECRET not in said


def test_other_variables_of_our_prefix_are_nobodys_typing_error() -> None:
    others = ["TRUECOPY_APP", "TRUECOPY_LEASE_S", "truecopy_lease_s", "TRUECOPY_RELAY_SERVICE_HOST", "LEASSE_S"]

    assert misspelt([*others, "TRUECOPY_REPLCA"], Settings.model_fields) == {"TRUECOPY_REPLCA": "TRUECOPY_REPLICA"}


def test_the_command_line_takes_them_and_says_what_is_wrong(secrets: Write, capsys: pytest.CaptureFixture[str]) -> None:
    secrets(lease_s=SECRET.encode())

    assert main(["status", "tests.services.bank"]) == 2

    assert "TRUECOPY_LEASE_S (file secrets/lease_s)" in capsys.readouterr().err


def opening(app: Truecopy | None = None) -> None:
    async def opened() -> None:
        async with (app or Truecopy("bank")).open(store=False):
            pass

    asyncio.run(opened())

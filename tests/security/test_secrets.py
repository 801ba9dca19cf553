"""No secret in anything that is said: every verb, on servers that let it in and on those that do not, at level DEBUG too."""

import base64
import gc
import json
import logging
import shutil
import signal
import subprocess
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from tests.security.conftest import KEY_PASSWORD, PASSWORD, USER, Certificates, SecuredKafka, SecuredPostgres

from truecopy_bus.logs.kafka import KafkaSettings
from truecopy_bus.tls import TlsFiles
from truecopy_schemas.errors import TruecopyError
from truecopy_services import Settings, Truecopy
from truecopy_services.cli import VERBS, main
from truecopy_services.cli.verb import Verb

# A verb ends with its event loop, before TLS has said goodbye to who was left out; the system closes what is then open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

WRONG, WRONG_KEY = "wr0ng/S3cret@?#x", "wr0ng+S3cret%key"
SECRETS = (PASSWORD, KEY_PASSWORD, WRONG, WRONG_KEY)
WORDS = {"APP": "bank", "PROJECTION": "balance", "KEY": "a1", "TYPE": "Deposited", "JSON": '{"amount": 5}'}
"""What stands for an argument, by its name."""
FLAGS = ("--kafka", "--postgres")
SET = " (environment variable): "
LASTING = {"run", "dev", "scrub"}
"""Verbs that end when they are told to: a process for each."""
UNDER_WAY = ("stop with", "does not let us in", "trying again", "truecopy: ")
SHOWN_AT_DEBUG = """
import logging
logging.basicConfig(level=logging.DEBUG)
logging.getLogger("aiokafka.conn").setLevel(logging.DEBUG)
from truecopy_services.cli import main
raise SystemExit(main())
"""
END_S = 30
QUICK = {"TIMEOUT_S": "2", "CHECK_WAIT_S": "0.2", "AT_LEAST_S": "0.2", "LEASE_S": "1.5"}

Surroundings = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the verbs run, as a working configuration and as what it is changed to."""

    kafka: SecuredKafka
    postgres: SecuredPostgres
    certificates: Certificates

    def settings(self, *, password: str = PASSWORD, key_password: str = KEY_PASSWORD) -> Surroundings:
        files = self.certificates
        log = f"kafka://127.0.0.1:{self.kafka.ports['SASL_SSL']}?security_protocol=SASL_SSL&sasl_username={USER}"
        database = self.postgres.url(
            password=password,
            sslmode="verify-full",
            sslrootcert=files.ca,
            sslcert=files.client,
            sslkey=files.locked_key,
            sslpassword=key_password,
        )
        return {
            **QUICK,
            "LOG": f"{log}&sasl_mechanism=PLAIN",
            "KAFKA": f"{log}&sasl_mechanism=PLAIN",
            "KAFKA_PASSWORD": password,
            "KAFKA_CA": str(files.ca),
            "KAFKA_CERT": str(files.client),
            "KAFKA_KEY": str(files.locked_key),
            "KAFKA_KEY_PASSWORD": key_password,
            "STORE": database,
            "REPLICA": database,
            "POSTGRES": database,
        }


def _nowhere(place: Place) -> Surroundings:
    """Ports on which nobody listens."""
    given = place.settings()
    given["LOG"] = given["KAFKA"] = given["LOG"].replace(f":{place.kafka.ports['SASL_SSL']}?", ":1?")
    address = f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:1/bank?sslpassword={quote(KEY_PASSWORD)}"
    return given | dict.fromkeys(("STORE", "REPLICA", "POSTGRES"), address)


def _bare(place: Place) -> Surroundings:
    """Passwords that are not percent-encoded in addresses, where one of them does not belong at all."""
    address = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:1/bank"
    log = f"kafka://{USER}:{PASSWORD}@127.0.0.1:1?security_protocol=SASL_SSL"
    return place.settings() | dict.fromkeys(("STORE", "REPLICA", "POSTGRES"), address) | dict.fromkeys(("LOG", "KAFKA"), log)


# From a place to settings, what is then said, and the verbs that stay under way
STATES = [
    pytest.param(Place.settings, "bank: relay", LASTING, id="all is well"),
    pytest.param(_nowhere, "trying again until it answers", LASTING, id="wrong ports"),
    pytest.param(lambda place: place.settings(password=WRONG), "refuses user 'bank'", LASTING, id="wrong passwords"),
    pytest.param(lambda place: place.settings(key_password=WRONG_KEY), "another password", set(), id="wrong key password"),
    pytest.param(_bare, "the address holds credentials", set(), id="passwords that are not encoded"),
]


@pytest.fixture
def place(secured_kafka: SecuredKafka, secured_postgres: SecuredPostgres, certificates: Certificates) -> Place:
    return Place(kafka=secured_kafka, postgres=secured_postgres, certificates=certificates)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a verb that lasts, with both of its outputs in one pipe; whatever happens it ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def starting(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SHOWN_AT_DEBUG, *words]
        options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, **options))
        return started[-1]

    yield starting
    for process in started:
        process.kill()
        process.communicate()


def words_of(verb: Verb) -> list[str]:
    """The verb with something for each of its arguments, and on real servers if it can be asked for that."""
    parser = ArgumentParser()
    verb.arguments(parser)
    arguments = [WORDS.get(str(each.metavar), "x") for each in parser._actions if not each.option_strings]
    return [verb.name, *arguments, *(flag for flag in FLAGS if flag in parser.format_help())]


def found_in(text: str) -> list[str]:
    """The secrets that the text shows, in any of the forms in which one can be read."""
    forms = (str, quote, quote_plus, lambda each: quote(each, safe=""), lambda each: json.dumps(each)[1:-1])
    forms += (lambda each: base64.b64encode(each.encode()).decode(),)
    return [secret for secret in SECRETS if any(form(secret) in text for form in forms)]


def under_way(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if any(sign in line for sign in UNDER_WAY):
            break
    return said


@pytest.mark.parametrize(("surroundings", "seen", "lasting"), STATES)
def test_no_verb_says_a_secret(
    place: Place,
    start: Callable[..., subprocess.Popen[str]],
    surroundings: Callable[[Place], Surroundings],
    seen: str,
    lasting: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copy(Path(__file__).parent.parent / "services/bank.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("TRUECOPY_DEBUG", raising=False)
    for name, value in surroundings(place).items():
        monkeypatch.setenv(f"TRUECOPY_{name}", value)
    caplog.set_level(logging.DEBUG)
    processes = [start(*words_of(verb)) for verb in VERBS if verb.name in lasting]
    said = "".join(map(under_way, processes))

    for verb in VERBS:
        if verb.name not in lasting:
            main([*words_of(verb), "--json"])
    for process in processes:
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=END_S)[0]
    shown = capsys.readouterr()

    said += shown.out + shown.err + caplog.text
    gc.collect()  # here, where that is known, and not in another test
    assert seen in said
    assert "Traceback" not in said
    assert found_in(said) == []


@pytest.mark.parametrize("surroundings", [state.values[0] for state in STATES[1:]], ids=[state.id for state in STATES[1:]])
async def test_no_error_of_ours_brings_a_secret_with_it(
    place: Place, surroundings: Callable[[Place], Surroundings], tmp_path: Path
) -> None:
    """What a user's own process would log of it, with everything that it came from."""
    given = {name.lower(): value for name, value in surroundings(place).items() if name not in ("KAFKA", "POSTGRES")}
    settings = Settings(**given, home=tmp_path)
    app = Truecopy("bank", settings=settings)
    told = f"{settings!r} {settings} {app!r}"

    for reached in ("log", "store", "replica"):
        try:
            async with app.open(store=reached == "store") as service:
                if reached == "log":
                    await service.log.describe("orders")
                if reached == "replica":
                    async with service.replica_adapter.snapshot():
                        told += f"{service!r}"
        except TruecopyError as error:
            told += "".join(traceback.format_exception(error))

    gc.collect()
    assert "Error" in told
    assert found_in(told) == []


def test_settings_show_no_secret() -> None:
    files = TlsFiles(key_password=KEY_PASSWORD)
    settings = KafkaSettings(
        servers=("h:1",), security_protocol="SASL_SSL", sasl_username=USER, sasl_password=PASSWORD, tls=files
    )

    assert found_in(f"{settings!r} {settings} {settings.name} {files!r}") == []


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        pytest.param(
            {"KAFKA_CA": "missing.pem"},
            f"TRUECOPY_KAFKA_CA{SET}missing.pem can't be read",
            id="no authority",
        ),
        pytest.param({"KAFKA_CERT": "client.crt"}, "TRUECOPY_KAFKA_KEY", id="no key"),
        pytest.param({"KAFKA_KEY": "stranger.key"}, f"TRUECOPY_KAFKA_KEY{SET}the key in", id="another's key"),
        pytest.param({"KAFKA_KEY_PASSWORD": "x"}, f"TRUECOPY_KAFKA_KEY_PASSWORD{SET}the key in", id="another password"),
    ],
)
def test_a_file_that_can_not_be_used_is_usage_and_its_setting_is_named(
    certificates: Certificates,
    variables: Surroundings,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(Path(__file__).parent.parent / "services/bank.py", tmp_path)
    for name in ("client.crt", "locked.key", "stranger.key"):
        shutil.copy(certificates.folder / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    given = {"LOG": "kafka://127.0.0.1:1?security_protocol=SSL", "KAFKA_CERT": "client.crt", "KAFKA_KEY": "locked.key"}
    given = {"LOG": given["LOG"], **(variables if "KAFKA_CERT" in variables or "KAFKA_CA" in variables else given | variables)}
    for name, value in given.items():
        monkeypatch.setenv(f"TRUECOPY_{name}", value)

    assert main(["status", "bank"]) == 2
    assert named in capsys.readouterr().err

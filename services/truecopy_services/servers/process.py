"""A server process of our own: started, awaited, killed and started again.

A child lives no longer than we do. Each has a watcher, a shell that reads a pipe which we hold: when we
die, even by SIGKILL, the pipe closes and the watcher kills the child. (PR_SET_PDEATHSIG would not do: it
fires when the thread that started the child ends, and exists on Linux alone.)

POSIX only. Everything here blocks: call it from a fixture, or from a thread.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil  # type: ignore[import-untyped, unused-ignore]

from truecopy_schemas.errors import TruecopyError

__all__ = [
    "ForeignServerError",
    "Machine",
    "Process",
    "Server",
    "ServerError",
    "await_ready",
    "free_ports",
]

READY_TIMEOUT_S = 90.0
"""Seconds until a started server must answer. A broker needs 4 when idle; a loaded machine, many times that."""
READY_POLL_S = 0.05
"""Seconds between two questions to a starting server."""
STOP_TIMEOUT_S = 20.0
"""Seconds for a clean stop, after which the server is killed."""
LOG_TAIL_LINES = 15
"""Lines of a server's log in an error: enough to hold the cause."""
PORTS = range(20_000, 32_000)
"""Below the ephemeral range, so that no outgoing connection takes a killed server's port before it restarts."""


class ServerError(TruecopyError):
    """A server did not start or stopped answering. The message names the log and what to do."""


class ForeignServerError(TruecopyError):
    """The server was given to us, so it's not ours to stop. Ask for a private one, or stop it by hand."""

    def __init__(self, *, url: str, verb: str) -> None:
        super().__init__(f"cannot {verb} {url}: it was given to us, expected one that we started; use a private server")
        self.url, self.verb = url, verb


class Machine(Protocol):
    """What a `Server` of our own runs in. Data and port stay the same from start to start."""

    def start(self) -> None:
        """Return once the server answers. Raises `ServerError` when it doesn't within `READY_TIMEOUT_S`."""

    def stop(self) -> None:
        """Shut down cleanly; does nothing when it is not running."""

    def kill(self) -> None:
        """End it as a power cut would, with all that it started; does nothing when it is not running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that answers, and how it came to be."""

    kind: str
    """`kafka` or `postgres`."""
    url: str
    rung: str
    """In words for people, for example `Apache Kafka 4.1.1 jars on OpenJDK 17.0.15`."""
    version: str
    machine: Machine | None = field(default=None, repr=False)
    """None when the server was given to us."""

    def stop(self) -> None:
        """Shut down cleanly. Raises `ForeignServerError` when the server isn't ours; so do `kill` and `restart`."""
        self._own("stop").stop()

    def kill(self) -> None:
        """End it with SIGKILL and all its processes with it."""
        self._own("kill").kill()

    def restart(self) -> None:
        """Start it again on the same data and port; stops it first if it runs. Raises `ServerError`."""
        machine = self._own("restart")
        machine.stop()
        machine.start()

    def _own(self, verb: str) -> Machine:
        if self.machine is None:
            raise ForeignServerError(url=self.url, verb=verb)
        return self.machine


class Process:
    """A `Machine` that is a child process in a session of its own."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        ready: Callable[[], bool],
        stop_signal: signal.Signals,
        user: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`user` is the uid to drop to; `environment` is added to ours; `log` receives both output streams."""
        self._command, self._log, self._ready, self._stop_signal = command, log, ready, stop_signal
        self._user, self._environment = user, {**os.environ, **(environment or {})}
        self._child: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._child = child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._log.parent,
                env=self._environment,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", 'read _; kill -s KILL -- "-$0"', str(child.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await_ready(
                self._ready,
                alive=lambda: child.poll() is None,
                log=self._tail,
                what=f"{self._command[0]} (log {self._log})",
            )
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(self._stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        if self._child is not None and self._child.poll() is None:
            _kill_tree(self._child)
        if self._watcher is not None and self._watcher.stdin is not None:
            # Only now: as long as the child is not reaped its number cannot be another's.
            self._watcher.kill()
            self._watcher.wait()
            self._watcher.stdin.close()
        self._child = self._watcher = None

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])


def _kill_tree(child: subprocess.Popen[bytes]) -> None:
    # A group does not do: each backend of PostgreSQL leads a group and a session of its own.
    parent = psutil.Process(child.pid)
    parent.suspend()  # or it starts another child between the look and the kill
    descendants = parent.children(recursive=True)
    for process in (parent, *descendants):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    child.wait()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while any(map(_lives, descendants)) and time.monotonic() < deadline:
        time.sleep(READY_POLL_S)


def _lives(process: psutil.Process) -> bool:
    # A zombie is dead: who reaps it, and when, is init's affair; psutil's own wait would wait for that too.
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def await_ready(ready: Callable[[], bool], *, alive: Callable[[], bool], log: Callable[[], str], what: str) -> None:
    """Ask until `ready`. Raises `ServerError` with the log's end when not `alive`, or after `READY_TIMEOUT_S`."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not ready():
        if not alive():
            raise ServerError(f"{what} ended at its start, expected it to answer; its last words, to mend:\n{log()}")
        if time.monotonic() > deadline:
            raise ServerError(
                f"{what} gave no answer in {READY_TIMEOUT_S:.0f} s, expected one; look at its last words, "
                f"or free the machine and try again:\n{log()}"
            )
        time.sleep(READY_POLL_S)


def free_ports(count: int) -> list[int]:
    """`count` different ports in `PORTS` which nobody listens on at 127.0.0.1 right now."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            candidate = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                candidate.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise ServerError(f"no {count} free ports from {PORTS.start} to {PORTS.stop}; end some servers")

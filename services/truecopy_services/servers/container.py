"""A server in Docker, through testcontainers, when a local engine answers; when none does, the next rung follows."""

import functools
import gc
import warnings
from collections.abc import Callable, Mapping, Sequence

from truecopy_services.servers.process import ServerError, await_ready

__all__ = ["Container", "engine_answers"]

ENGINE_TIMEOUT_S = 3
"""Seconds for the engine's answer to a ping. A client without an engine is common and must not hold us up."""


@functools.cache
def engine_answers() -> bool:
    """Ask the engine, not the path, once per process. A remote one counts as none: we bind to the loopback only."""
    # docker-py leaves its socket open when nobody listens; collect it here, or it warns amid a caller's test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = _ping()
        gc.collect()
    return answers


def _ping() -> bool:
    try:
        from testcontainers.core.docker_client import DockerClient

        client = DockerClient(timeout=ENGINE_TIMEOUT_S).client
    except Exception:  # not installed, no socket, no rights: docker-py has no one error for it
        return False
    try:
        return bool(client.ping()) and client.api.base_url.startswith("http+docker://local")
    except Exception:
        return False
    finally:
        client.close()


class Container:
    """A `Machine` in Docker. The host's port is fixed, so that a restarted container keeps its address."""

    def __init__(
        self,
        image: str,
        *,
        ports: tuple[int, int],
        environment: Mapping[str, str],
        ready: Callable[[], bool],
        command: Sequence[str] = (),
    ) -> None:
        """`ports` is inside the container, then at 127.0.0.1."""
        from testcontainers.core.container import DockerContainer

        self._image, self._ready = image, ready
        self._container = DockerContainer(image).with_envs(**environment)
        if command:
            self._container.with_command(list(command))
        # docker-py takes a pair here; testcontainers declares the number alone, which would open all interfaces.
        self._container.ports[f"{ports[0]}/tcp"] = ("127.0.0.1", ports[1])  # type: ignore[assignment]
        self._created = False

    def start(self) -> None:
        try:
            if self._created:
                self._container.get_wrapped_container().start()
            else:
                self._container.start()
                self._created = True
        except Exception as error:
            raise ServerError(f"Docker did not start {self._image}: {error}; expected a running container") from error
        await_ready(self._ready, alive=self._alive, log=self._log, what=f"container of {self._image}")

    def stop(self) -> None:
        if self._created and self._alive():
            self._container.get_wrapped_container().stop()

    def kill(self) -> None:
        if self._created and self._alive():
            self._container.get_wrapped_container().kill()

    def remove(self) -> None:
        """Remove the container with its data."""
        self._container.stop()

    def _alive(self) -> bool:
        container = self._container.get_wrapped_container()
        container.reload()
        return bool(container.status == "running")

    def _log(self) -> str:
        return b"".join(self._container.get_logs()).decode(errors="replace")[-2_000:]

"""Redis servers in containers, which tests start, kill, pause and start again as they do with processes."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.containers import docker
from tests.support.waiting import wait_until

# Of every container of the tests; its value is the pid of the process that started it.
_LABEL = "council.tests"


def is_image(binary: str) -> bool:
    """True for the name of a container image, such as redis:8-alpine, and False for a path."""
    return ":" in binary and not binary.startswith("/")


def program_of(image: str) -> str:
    """The name of the server's program in the image."""
    return "valkey-server" if "valkey" in image else "redis-server"


def container_class() -> Any:
    """testcontainers' DockerContainer. Its own cleaning is another image, which a machine without a registry has not:
    sweep() replaces it. The address of a published port is this machine's, also where pytest runs in a container."""
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
    from testcontainers.core.container import DockerContainer

    return DockerContainer


def labels() -> dict[str, str]:
    return {_LABEL: str(os.getpid())}


@functools.cache
def sweep() -> None:
    """Removes the containers of test runs that were killed, once in each process."""
    listed = docker("ps", "--all", "--filter", f"label={_LABEL}", "--format", '{{.ID}} {{.Label "' + _LABEL + '"}}')
    for line in listed.stdout.splitlines():
        container, _, pid = line.partition(" ")
        if not Path(f"/proc/{pid}").exists():
            docker("rm", "--force", "--volumes", container)


class ContainerProcess:
    """A server in a container, with the methods of subprocess.Popen that tests use. It shares this machine's network
    and the server's folder, so that its sockets, ports and files are where those of a process would be."""

    def __init__(self, image: str, arguments: Sequence[str], folder: Path) -> None:
        sweep()
        self.args = [image, *arguments]
        container = container_class()(image).with_command([*arguments])
        container.with_volume_mapping(str(folder), str(folder), "rw")
        # The program itself, as root: an image's script would change the owner of the folder.
        container.with_kwargs(
            network_mode="host", entrypoint=program_of(image), auto_remove=True, labels=labels(), user="0:0"
        )
        self._container = container.start().get_wrapped_container()

    @property
    def id(self) -> str:
        return str(self._container.id)

    def poll(self) -> int | None:
        """None while it runs, else 0."""
        from docker.errors import APIError

        try:
            self._container.reload()
        except APIError:  # it was removed, as it is when it ends
            return 0
        return None if self._container.status in ("created", "running", "paused") else 0

    def send_signal(self, number: int) -> None:
        from docker.errors import APIError

        try:
            self._container.kill(signal=signal.Signals(number).name)
        except APIError:
            assert self.poll() is not None, f"{self.args[0]} takes no signal"

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 30.0) -> int:
        """Waits until it has ended."""
        wait_until(lambda: self.poll() is not None, f"{self.args[0]} ends", timeout)
        return 0

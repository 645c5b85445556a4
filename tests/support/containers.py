"""The Docker engine of this machine, for the tests of containers: which images it has, and what is missing."""

from __future__ import annotations

import functools
import shutil
import subprocess

PYTHON = "python:3.11-slim"
REDIS_7, REDIS_8, VALKEY_8 = "redis:7-alpine", "redis:8-alpine", "valkey/valkey:8-alpine"


def docker(*words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Runs `docker WORDS` to its end."""
    return subprocess.run(
        ["docker", *words], capture_output=True, text=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
    )


@functools.cache
def trouble(*images: str) -> str:
    """Why containers of these images cannot be started here; empty where they can."""
    if not shutil.which("docker"):
        return "docker is not installed"
    if docker("info", timeout_s=20).returncode:
        return "no Docker engine answers"
    missing = [image for image in images if docker("image", "inspect", image).returncode]
    return f"the engine lacks {', '.join(missing)}: run .ci/images" if missing else ""


def version_in(image: str) -> str:
    """The version that a stand-in for the image contains; empty for the image of a registry."""
    done = docker("image", "inspect", image, "--format", '{{index .Config.Labels "council.stand-in"}}')
    return done.stdout.strip() if done.returncode == 0 else ""

"""Servers of other projects: how each is installed, configured, started and stopped. All run as processes of their own."""

import http.client
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from .programs import TARGET, Failure, find_program, say

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 10
# What pip and npm install; git does not look there.
VENV = TARGET / "bench-servers" / "venv"
NODE = TARGET / "bench-servers" / "node"
# A file that every server has, and that is no part of a measurement.
READY = "ready.txt"


@dataclass(frozen=True)
class Server:
    name: str
    source: str
    """debian, pip, npm, python (of this very one), or ours."""
    packages: str
    """The first one's version is the row's version."""
    command: str
    """Words with places: {port}, {www} the folder that is served, {here} a folder of its own, {origin} the port of an nginx
    that serves the same folder, {python}, {venv_bin}, {node_bin}, {sapwood}."""
    files: dict = field(default_factory=dict, hash=False)
    """Below {here}, with the same places."""

    @property
    def program(self):
        return self.name


def fill(text, places):
    """Not str.format: configurations are full of braces."""
    for name, value in places.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


# ---------------------------------------------------------------------------------------------------
# Installing


def run_quietly(command, **more):
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)
    except OSError as error:
        raise Failure(f"{command[0]} cannot be started: {error.strerror}") from error
    if run.returncode != 0:
        said = (run.stderr or run.stdout).strip().splitlines() or ["no message"]
        raise Failure(f"{shlex.join(map(str, command[:3]))}: exit {run.returncode}: {said[-1]}")
    return run.stdout.strip()


def debian_version(package):
    run = subprocess.run(["dpkg-query", "-W", "-f", "${Status}\t${Version}", package], capture_output=True, text=True)
    status, _, version = run.stdout.partition("\t")
    return version if status.endswith(" installed") else ""


def pip_version(package):
    if not python().exists():
        return ""
    script = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    run = subprocess.run([python(), "-c", script, package], capture_output=True, text=True)
    return run.stdout.strip()


def npm_version(package):
    try:
        return json.loads((NODE / "node_modules" / package / "package.json").read_text())["version"]
    except OSError:
        return ""


def python():
    return VENV / "bin" / "python"


def install_debian(packages):
    # A server of a package would be started at once, on a port of the machine.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run_quietly(["apt-get", "-qq", "update"], env=environment)
        # Some servers' packages exclude each other.
        run_quietly(["apt-get", "-qq", "install", "-y", "--no-install-recommends", "--no-remove", *packages], env=environment)
    finally:
        if ours:
            policy.unlink()


def install_pip(packages):
    if not python().exists():
        run_quietly([sys.executable, "-m", "venv", VENV])
    run_quietly([python(), "-m", "pip", "install", "--quiet", *packages])


def install_npm(packages):
    npm = shutil.which("npm")
    if not npm:
        raise Failure("npm is missing")
    NODE.mkdir(parents=True, exist_ok=True)
    run_quietly([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", NODE, *packages], cwd=NODE)


INSTALL = {"debian": (install_debian, debian_version), "pip": (install_pip, pip_version), "npm": (install_npm, npm_version)}


def installed_version(server):
    """Installs what is missing. Returns the version of the server; a Failure says why there is none."""
    if server.source == "ours":
        return "this commit"
    if server.source == "python":
        return platform.python_version()
    install, version_of = INSTALL[server.source]
    missing = [package for package in server.packages.split() if not version_of(package)]
    if missing:
        say(f"{server.name}: installing {' '.join(missing)} ({server.source})")
        install(missing)
    version = version_of(server.packages.split()[0])
    if not version:
        raise Failure("is installed, and tells no version")
    # Of a Debian version, what upstream calls it.
    return version.split(":")[-1].split("-")[0].split("+")[0] if server.source == "debian" else version


# ---------------------------------------------------------------------------------------------------
# Running


class Serving:
    """A server in a group of processes of its own, which ends with it."""

    def __init__(self, server, here, www, origin_port):
        self.server, self.here, self.www = server, here, www
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        of_python = sys.executable if server.source == "python" else python()
        self.places = {"port": self.port, "www": www, "here": here, "origin": origin_port, "python": of_python,
                       "venv_bin": VENV / "bin", "node_bin": NODE / "node_modules" / ".bin", "sapwood": find_program("sapwood")}

    def __enter__(self):
        # Several servers leave root behind.
        self.here.chmod(0o777)
        for name, text in self.server.files.items():
            (self.here / name).write_text(fill(text, self.places))
        environment = {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin", "HOME": str(self.here), "LC_ALL": "C.UTF-8",
                       "NODE_PATH": str(NODE / "node_modules"), "PYTHONPATH": str(self.here), "PYTHONDONTWRITEBYTECODE": "1"}
        words = [fill(word, self.places) for word in shlex.split(self.server.command)]
        self.log = open(self.here / "log", "wb")
        try:
            self.process = subprocess.Popen(words, cwd=self.here, env=environment, stdin=subprocess.DEVNULL, stdout=self.log,
                                            stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            self.log.close()
            raise Failure(f"cannot be started: {words[0]}: {error.strerror}") from error
        try:
            self.wait_until_it_serves()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_it_serves(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.serves():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.here / "log").read_text(errors="replace").strip().splitlines() or ["no message"]
                raise Failure(f"does not serve {READY}: {said[-1][:200]}")
            time.sleep(0.05)

    def serves(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", f"/{READY}")
            response = connection.getresponse()
            return response.status == 200 and response.read() == (self.www / READY).read_bytes()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def __exit__(self, *_):
        try:
            for ending in (signal.SIGTERM, signal.SIGKILL):
                self.signal_group(ending)
                try:
                    self.process.wait(STOP_TIMEOUT_S)
                    break
                except subprocess.TimeoutExpired:
                    pass
            # Workers that outlive their master.
            self.signal_group(signal.SIGKILL)
        finally:
            self.log.close()

    def signal_group(self, ending):
        try:
            os.killpg(self.process.pid, ending)
        except ProcessLookupError:
            pass

"""mosquitto: found, configured, told of its members while it runs.

Members come and go through the dynamic-security plugin, over a Unix socket in the broker's own 0700
folder: no restart, no certificate for the supervisor, and a removed member's connection is cut at once.
Its acl_file was tried and rejected: it never refuses a subscription and knows no cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import aiomqtt

from gateway.broker import access
from gateway.broker.access import Listener
from security.errors import Unavailable

SEARCH: Final = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # not on a plain user's PATH
PLUGINS: Final = ("/usr/lib/*/", "/usr/lib/", "/usr/lib64/", "/usr/local/lib/")
PLUGIN_NAME: Final = "mosquitto_dynamic_security.so"
OLDEST: Final = (2, 0)
CONTROL_S: Final = 5.0  # for an answer
SECRET_BYTES: Final = 32
COMMANDS_MAX: Final = 16
"""At once: a packet holds a hundred, but it rewrites its whole file for each and serves nobody meanwhile."""


class Mosquitto:
    """The program `kind = "mosquitto"` of the broker facade."""

    kind = "mosquitto"

    def __init__(self, listener: Listener, program: Path, plugin: Path) -> None:
        self._listener = listener
        self._program = program
        self._plugin = plugin
        self._folder = Path(listener.folder)
        self.cwd = self._folder  # the control socket's path is relative to it: Unix allows 107 bytes

    @classmethod
    def find(cls, listener: Listener) -> Mosquitto:
        """Raises: Unavailable: not installed, too old, or without its plugin; the fix says what to do."""
        found = shutil.which("mosquitto") or next(
            (f"{folder}/mosquitto" for folder in SEARCH if os.access(f"{folder}/mosquitto", os.X_OK)), None
        )
        if found is None:
            raise Unavailable(
                "mosquitto is not installed", fix="apt install mosquitto, or use --broker embedded"
            )
        version = version_of(Path(found))
        if version < OLDEST:
            text = ".".join(map(str, version))
            raise Unavailable(
                f"mosquitto {text} is too old", fix="install 2.0 or newer, or use --broker embedded"
            )
        plugins = sorted(path for place in PLUGINS for path in Path("/").glob(place[1:] + PLUGIN_NAME))
        if not plugins:
            raise Unavailable(f"mosquitto lacks {PLUGIN_NAME}", fix="install it, or use --broker embedded")
        return cls(listener, Path(found), plugins[0])

    def prepare(self, members: Iterable[str]) -> None:
        """Write what it reads when it starts."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / access.CONTROL_SOCKET).unlink()
        _write(self._folder / "mosquitto.conf", self._configuration())
        document = access.mosquitto_access(
            self._listener.mesh,
            members,
            password=self._password(),
            salt=secrets.token_bytes(access.SALT_BYTES),
        )
        _write(self._folder / "access.json", document)

    def digest(self) -> str:
        """Of all that a running one must have been started with: not its members, nor its certificate."""
        files = [self._listener.ca_file]
        parts = [str(self._program).encode(), self._configuration().encode(), self._password().encode()]
        return access.digest_of([*parts, *(Path(name).read_bytes() for name in files)])

    def command(self) -> list[str]:
        return [str(self._program), "-c", str(self._folder / "mosquitto.conf")]

    async def set_members(self, members: Iterable[str]) -> bool:
        """True: done. Raises: Unavailable: it does not answer."""
        try:
            async with self._control() as control:
                await control.subscribe(f"{access.CONTROL_TOPIC}/response", 1, timeout=CONTROL_S)
                [clients, roles] = await _ask(
                    control, [{"command": "listClients", "count": -1}, {"command": "listRoles", "count": -1}]
                )
                commands = access.mosquitto_changes(
                    self._listener.mesh, clients["data"]["clients"], roles["data"]["roles"], members
                )
                for at in range(0, len(commands), COMMANDS_MAX):
                    await _ask(control, commands[at : at + COMMANDS_MAX])
        except (aiomqtt.MqttError, OSError, TimeoutError, ValueError, KeyError) as error:
            raise Unavailable(f"mosquitto does not take its members: {error}") from error
        return True

    def _configuration(self) -> str:
        return access.mosquitto_conf(self._listener, plugin=str(self._plugin), as_root=os.geteuid() == 0)

    def _password(self) -> str:
        path = self._folder / "control.secret"
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            held = path.read_text()
            if len(held) >= SECRET_BYTES:  # not emptied by a power cut
                return held
        password = secrets.token_urlsafe(SECRET_BYTES)
        _write(path, password)
        return password

    @contextlib.asynccontextmanager
    async def _control(self) -> Any:
        """A home may have a longer name than a socket: reach it through its folder's descriptor."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            async with aiomqtt.Client(
                f"/proc/self/fd/{descriptor}/{access.CONTROL_SOCKET}",
                1,
                transport="unix",
                identifier=access.CONTROL_USER,
                username=access.CONTROL_USER,
                password=self._password(),
                timeout=CONTROL_S,
            ) as client:
                yield client
        finally:
            os.close(descriptor)


async def _ask(control: aiomqtt.Client, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    async with asyncio.timeout(CONTROL_S):
        await control.publish(access.CONTROL_TOPIC, json.dumps({"commands": commands}), 1)
        message = await anext(control.messages)
    assert isinstance(message.payload, bytes), "a control answer is bytes"
    responses: list[dict[str, Any]] = json.loads(message.payload)["responses"]
    errors = sorted({answer["error"] for answer in responses if "error" in answer})
    if errors:
        raise ValueError("; ".join(errors))
    return responses


def version_of(program: Path) -> tuple[int, ...]:
    """(0,) if it does not say."""
    try:
        told = subprocess.run(
            [program, "-h"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
        ).stdout
    except OSError:
        return (0,)
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", told)
    return tuple(map(int, found.groups())) if found else (0,)


def _write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)

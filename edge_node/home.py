"""A home: the one directory in which everything of a node or a gateway lies.

    <home>/                 0700
      keys/       0700      key and certificate files, 0600 each
      log/                  daemon.log (JSON lines), cli.log
      bundles/              functions' code, named by digest
      control.sock 0600     the local control socket
      daemon.lock           held by the running daemon, with its process id
      ledger.db             tasks, the durable truth     documents.db   peers seen, catalogue, results
      chronicle.db          what was not plain, for `why`: bounded, may be thrown away
      settings.toml         written by people
      access.json 0600, audit.log, sessions.json    gateway: users and tokens, what they changed, who is in

Many homes fit one machine: every command takes ``--home DIR`` or ``EDGEWEAVE_HOME``. Not here: what the
files contain.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from security.errors import BadInput, Unavailable

VARIABLE = "EDGEWEAVE_HOME"
_SUN_PATH_MAX = 100  # Linux allows 107 bytes; some room for the temporary name the server binds first


class Home:
    """The paths of one home. Making the object touches nothing; ``create`` does."""

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def logs(self) -> Path:
        return self.path / "log"

    @property
    def bundles(self) -> Path:
        return self.path / "bundles"

    @property
    def socket(self) -> Path:
        return self.path / "control.sock"

    @property
    def lock(self) -> Path:
        return self.path / "daemon.lock"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.db"

    @property
    def documents(self) -> Path:
        return self.path / "documents.db"

    @property
    def state(self) -> Path:
        """The replicated tables."""
        return self.path / "state.db"

    @property
    def chronicle(self) -> Path:
        return self.path / "chronicle.db"

    @property
    def estimates(self) -> Path:
        return self.path / "estimates.bin"

    @property
    def settings(self) -> Path:
        return self.path / "settings.toml"

    def create(self) -> None:
        """Make the directories that are missing, 0700. A home in use is checked, not changed.

        Raises: BadInput: it cannot be made, or others may read it.
        """
        try:
            if self.path.is_dir() and not any(self.path.iterdir()):
                self.path.chmod(0o700)  # an empty directory somebody made for us, with their umask
            for directory in (self.path, self.keys, self.logs, self.bundles):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"cannot make the home {self.path}: {error.strerror}", fix="choose another with --home DIR"
            ) from None
        for directory in (self.path, self.keys):
            mode = stat.S_IMODE(directory.stat().st_mode)
            if mode & 0o077:
                raise BadInput(
                    f"{directory} may be read by others (mode {mode:04o})", fix=f"chmod 700 {directory}"
                )

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """This process is the home's daemon for as long as the block lasts.

        The lock is a POSIX record lock: it ends with the process, however that dies, and is not inherited
        by workers. Nothing else in the process may open and close ``daemon.lock`` meanwhile.
        Raises: Unavailable: another process holds it.
        """
        fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
                raise Unavailable(
                    f"a daemon already runs in {self.path} (process {holder})",
                    fix="stop it first, or choose another home with --home DIR",
                ) from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def socket_address(self, name: str = "control.sock") -> Iterator[str]:
        """An address to bind or connect to while the block lasts, however long the home's path is.

        A Unix socket's address holds 107 bytes; a longer path is reached through an open directory:
        ``/proc/self/fd/<n>/control.sock``. Raises: FileNotFoundError and other OSErrors of the directory.
        """
        with short_address(self.path / name) as address:
            yield address


@contextlib.contextmanager
def short_address(path: Path) -> Iterator[str]:
    """See ``Home.socket_address``."""
    if len(os.fsencode(path)) <= _SUN_PATH_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def node_home() -> Home:
    return Home(Path.home() / ".edgeweave" / "node")


def gateway_home() -> Home:
    return Home(Path.home() / ".edgeweave" / "gateway")


def chosen_home(
    given: str | os.PathLike[str] | None = None,
    *,
    default: Home | None = None,
    environ: Mapping[str, str] | None = None,
) -> Home:
    """The home that a command or program means.

    *given*, else ``EDGEWEAVE_HOME``, else *default*; without one, the node's default home if a daemon's
    socket lies there, else the gateway's if one lies there, else the node's.
    """
    if given:
        return Home(given)
    from_environment = (os.environ if environ is None else environ).get(VARIABLE, "")
    if from_environment:
        return Home(from_environment)
    if default is not None:
        return default
    for home in (node_home(), gateway_home()):
        if home.socket.exists():
            return home
    return node_home()

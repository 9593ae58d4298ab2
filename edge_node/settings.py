"""What a person may choose, in ``<home>/settings.toml`` or the environment.

One frozen struct per part, passed whole. A key of section ``link`` is ``[link] keepalive_s = 10`` in the
file and ``EDGEWEAVE_LINK_KEEPALIVE_S=10`` in the environment; command-line options win over the
environment, the environment over the file, the file over the default. A mistake is one line that names
the file, its line, the key and what was expected; an unknown key is refused with the nearest known one,
because a setting that silently does nothing is worse than none.

In: text. Out: ``NodeSettings``. Not here: the gateway's own sections (``gateway.settings``), limits that a
function's author chooses (``functions.decorator``), labels and roles (they bind only from the roster).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from security.errors import BadInput

PREFIX: Final = "EDGEWEAVE"
FILE_BYTES_MAX: Final = 1024 * 1024

S = TypeVar("S", bound=msgspec.Struct)


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all sections. A field's description says unit, formula, and what raising it costs."""


class BoardSettings(Section, frozen=True, kw_only=True):
    """The machine that this node pretends to be, or is."""

    slowdown: Annotated[
        float,
        Meta(
            ge=1,
            le=1000,
            description="Factor by which this node is slower than its machine: after a task of c CPU seconds "
            "a worker sleeps (slowdown - 1) * c. For simulated small boards; 1 is off.",
        ),
    ] = 1.0


class LinkSettings(Section, frozen=True, kw_only=True):
    """The connection to the broker."""

    seeds: Annotated[
        list[str],
        Meta(
            description="Gateway addresses, host:port, tried in parallel with mDNS and the join code's. "
            "Each adds one connection attempt when the broker is lost."
        ),
    ] = []
    keepalive_s: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description="Seconds of silence after which the broker is asked; it tells others of our end "
            "after 1.5 times this. Raising it saves radio time, deaths are noticed later.",
        ),
    ] = 10
    inbox_messages_max: Annotated[
        int,
        Meta(
            ge=16,
            le=1_000_000,
            description="Messages received and not yet handled; at this bound the socket is not read. "
            "Raising it costs up to 256 KiB each.",
        ),
    ] = 4096


class DiscoverySettings(Section, frozen=True, kw_only=True):
    """Finding members on the local network. Never the only way in."""

    mdns: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            description="Interface for mDNS: auto (all), none, lo, or a name or address of one interface.",
        ),
    ] = "auto"


class TaskSettings(Section, frozen=True, kw_only=True):
    """Tasks that this node has accepted and owns."""

    ttl_s: Annotated[
        float,
        Meta(
            gt=0,
            le=30 * 86400,
            description="Seconds that an accepted task is kept trying, if it names no ttl itself; at most "
            "outbox_s_max.",
        ),
    ] = 86400.0
    outbox_tasks_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Unsettled tasks; at this bound new ones are refused. Raising it costs about 1 KB of "
            "memory a task, and longer restarts.",
        ),
    ] = 10_000
    outbox_bytes_max: Annotated[
        int,
        Meta(
            ge=1024 * 1024,
            le=2**40,
            description="Bytes of input of unsettled tasks, on disk; at this bound new ones are refused.",
        ),
    ] = 64 * 1024 * 1024
    outbox_s_max: Annotated[
        float,
        Meta(
            gt=0,
            le=30 * 86400,
            description="Seconds that a task may ask to be kept trying; a longer ttl is refused. Raising it "
            "costs room in the outbox while a place is away.",
        ),
    ] = 86400.0
    results_kept_s: Annotated[
        float,
        Meta(
            ge=0,
            le=365 * 86400,
            description="Seconds that a settled task's record and result are kept for `result`. Raising it "
            "costs disk: about 1 KB and the result, a task.",
        ),
    ] = 86400.0
    results_kept_max: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000_000,
            description="Settled tasks kept, whatever their age; the oldest go first. Raising it costs disk, "
            "and a start about 1 s more for each 500 000 (every row is checked).",
        ),
    ] = 100_000
    results_bytes_max: Annotated[
        int,
        Meta(
            ge=0,
            le=2**40,
            description="Bytes of settled tasks' arguments and results kept, whatever their age; the oldest "
            "go first and their space is given back to the disk.",
        ),
    ] = 256 * 1024 * 1024

    @property
    def ttl_ms(self) -> int:
        """Of a task that names none."""
        return int(1000 * min(self.ttl_s, self.outbox_s_max))


class WorkerSettings(Section, frozen=True, kw_only=True):
    """The processes that run functions."""

    count: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="Worker processes; 0: one a core. Each costs 12 MB and more, by what it imports.",
        ),
    ] = 0
    start_s_max: Annotated[
        float, Meta(gt=0, le=600, description="Seconds that a worker may take to start before it is killed.")
    ] = 20.0


class FunctionSettings(Section, frozen=True, kw_only=True):
    """The code of deployed functions."""

    prefetch: Annotated[
        bool,
        Meta(
            description="Fetch the code of every deployed function in idle moments, so that a node that is "
            "cut off can run also what it never ran. false: fetch it when it is to run."
        ),
    ] = True
    prefetch_bytes_max: Annotated[
        int,
        Meta(
            ge=0,
            le=2**40,
            description="Bytes of code kept here, above which none is fetched ahead. Raising it costs disk.",
        ),
    ] = 64 * 1024 * 1024


class TrustSettings(Section, frozen=True, kw_only=True):
    """What to do when the signed member list has not been renewed in time."""

    stale_roster: Annotated[
        Literal["warn", "strict"],
        Meta(description="warn: listed members go on and `status` warns; strict: no new sessions then."),
    ] = "warn"


class LogSettings(Section, frozen=True, kw_only=True):
    """<home>/log/daemon.log, JSON lines."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least level that is written. debug names every task and costs about 20 us each."),
    ] = "info"
    file_bytes_max: Annotated[
        int, Meta(ge=64 * 1024, le=2**30, description="Bytes of one log file before the next is begun.")
    ] = 10 * 1024 * 1024
    files_kept: Annotated[
        int, Meta(ge=0, le=100, description="Older log files kept beside the current one.")
    ] = 3


class TelemetrySettings(Section, frozen=True, kw_only=True):
    """What is told to systems beside the mesh."""

    otlp_endpoint: Annotated[
        str,
        Meta(
            max_length=1024,
            description="URL of an OpenTelemetry collector (OTLP over HTTP), as http://127.0.0.1:4318; "
            "empty: none. It is told the spans of tasks that were handed in with a sampled traceparent. "
            "Takes the extra otlp, and 13 MB of memory.",
        ),
    ] = ""


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that may be chosen about a node; each field is a section."""

    board: BoardSettings = BoardSettings()
    link: LinkSettings = LinkSettings()
    discovery: DiscoverySettings = DiscoverySettings()
    tasks: TaskSettings = TaskSettings()
    worker: WorkerSettings = WorkerSettings()
    functions: FunctionSettings = FunctionSettings()
    trust: TrustSettings = TrustSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()


def load(
    kind: type[S],
    path: Path,
    *,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
    flags: Mapping[str, str] | None = None,
) -> S:
    """Settings of *kind* (a struct of sections), from all their sources.

    Args: path: the file; need not exist.   options: command-line values by "section.key"; None is skipped.
        flags: how the options are called, where that is not ``--key``.
    Raises: BadInput: one line, naming where the mistake is.
    """
    text = _text(path)
    return parse(
        kind,
        text,
        name=str(path),
        environ=os.environ if environ is None else environ,
        options=options,
        flags=flags,
    )


def parse(
    kind: type[S],
    text: str,
    *,
    name: str = "settings.toml",
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
    flags: Mapping[str, str] | None = None,
) -> S:
    """As ``load``, from the file's text. Raises: BadInput."""
    tree = _tree(text, name) if text else {}
    sections = _sections(kind)
    chosen: dict[str, dict[str, object]] = {section: {} for section in sections}
    for section, table in tree.items():
        at = _at(name, text, section, None)
        if section not in sections:
            what = f"[{section}]" if isinstance(table, dict) else repr(section)
            raise BadInput(f"{at}: unknown section {what}", fix=_nearest(section, sections))
        if not isinstance(table, dict):
            raise BadInput(
                f"{at}: {section!r} is a section, not a value", fix=f"write [{section}] on a line of its own"
            )
        for key, value in table.items():
            at = _at(name, text, section, key)
            if key not in sections[section]:
                raise BadInput(f"{at}: unknown key [{section}] {key}", fix=_nearest(key, sections[section]))
            chosen[section][key] = _checked(
                value, sections[section][key], f"{at}: [{section}] {key}", strict=True
            )
    for section, fields in sections.items():
        for variable, raw in sorted((environ or {}).items()):
            start = f"{PREFIX}_{section.upper()}_"
            if not variable.startswith(start):
                continue
            key = variable.removeprefix(start).lower()
            if key not in fields:
                raise BadInput(
                    f"environment variable {variable} names no setting", fix=_nearest(key, fields, start)
                )
            value = _from_text(raw, fields[key])
            chosen[section][key] = _checked(
                value, fields[key], f"environment variable {variable}", strict=False
            )
    for option, value in (options or {}).items():
        if value is None:
            continue
        section, _, key = option.partition(".")
        flag = (flags or {}).get(option, "--" + key.replace("_", "-"))
        chosen[section][key] = _checked(value, sections[section][key], f"option {flag}", strict=False)
    return msgspec.convert(chosen, kind)


def template(kind: type[msgspec.Struct]) -> str:
    """A settings file that says nothing yet: every key, commented out, with its default and its meaning."""
    lines = ["# Every value below is the default; remove the '#' in front of a key to change it.", ""]
    for section, fields in _sections(kind).items():
        lines.append(f"[{section}]")
        for key, field in fields.items():
            lines += [f"# {line}" for line in _wrapped(_description(field.type))]
            lines += [f"# {key} = {_toml(field.get_default())}", ""]
    return "\n".join(lines)


class _Field:
    """One key: its type with bounds, and its default."""

    __slots__ = ("field", "type")

    def __init__(self, field: msgspec.structs.FieldInfo) -> None:
        self.field = field
        self.type: Any = field.type

    def get_default(self) -> object:
        if self.field.default is not msgspec.NODEFAULT:
            return self.field.default
        assert self.field.default_factory is not msgspec.NODEFAULT, "every setting has a default"
        return self.field.default_factory()


def _sections(kind: type[msgspec.Struct]) -> dict[str, dict[str, _Field]]:
    return {
        section.name: {key.name: _Field(key) for key in msgspec.structs.fields(section.type)}
        for section in msgspec.structs.fields(kind)
    }


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", fix="check its owner and mode") from None
    if len(data) > FILE_BYTES_MAX:
        raise BadInput(f"{path} has {len(data)} bytes", fix="a settings file has at most 1 MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput(f"{path}:{line}: not UTF-8 text", fix="save it as UTF-8") from None


def _checked(value: object, field: _Field, where: str, *, strict: bool) -> object:
    try:
        return msgspec.convert(value, field.type, strict=strict)
    except msgspec.ValidationError:
        raise BadInput(f"{where} is {_shown(value)}", fix=f"expected {expected(field.type)}") from None


def expected(kind: Any) -> str:
    """A type with its bounds, for people: "a whole number, 1 to 3600"."""
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    match info:
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            noun = "a whole number" if isinstance(info, msgspec.inspect.IntType) else "a number"
            low = (
                "" if info.ge is None and info.gt is None else f"{info.ge if info.gt is None else info.gt:,}"
            )
            more = "" if info.gt is None else "more than "
            if low and info.le is not None:
                return f"{noun}, {more}{low} to {info.le:,}"
            return f"{noun}, {more}{low}{'' if more else ' or more'}" if low else noun
        case msgspec.inspect.LiteralType():
            return "one of " + ", ".join(
                f'"{choice}"' for choice in info.values
            )  # in the order of the source
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.ListType():
            return 'a list of texts, as ["a", "b"]'
        case msgspec.inspect.StrType():
            return "a text"
    return "another type"


def _from_text(raw: str, field: _Field) -> object:
    info = msgspec.inspect.type_info(field.type)
    if isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    if isinstance(info, msgspec.inspect.ListType):
        return [item.strip() for item in raw.split(",") if item.strip()]
    return raw


def _description(kind: Any) -> str:
    for meta in getattr(kind, "__metadata__", ()):
        if isinstance(meta, Meta) and meta.description:
            return meta.description
    return ""


def _nearest(word: str, known: Mapping[str, object], prefix: str = "") -> str:
    names = list(known)
    import difflib  # only where a name is wrong

    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    show = str.upper if prefix else str
    if close:
        return f"did you mean {prefix}{show(close[0])}?"
    return "known are " + ", ".join(f"{prefix}{show(name)}" for name in names)


def _tree(text: str, name: str) -> dict[str, Any]:
    import tomllib  # only where there is a file to read: its patterns take 0.3 MB

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"{name} is not TOML: {error}", fix="correct or remove that line") from None


def _at(name: str, text: str, section: str, key: str | None) -> str:
    """``file:line`` of a section or key; the file alone where it is written in a way not looked for."""
    head = re.compile(r"\s*\[\s*([\w.\"'-]+)\s*\]")
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        match = head.match(line)
        if match:
            current = match[1].strip("\"'")
            if key is None and current.split(".")[0] == section:
                return f"{name}:{number}"
            continue
        word = line.split("=")[0].strip().replace('"', "")
        if not current and (word == section or word.split(".")[0] == section):
            if key is None or word == section or word.startswith(f"{section}.{key}"):
                return f"{name}:{number}"
        elif key is not None and current == section and word.split(".")[0] == key:
            return f"{name}:{number}"
    return name


def _shown(value: object) -> str:
    match value:
        case str():
            return f"the text {value[:60]!r}"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"{value}"
        case list():
            return "a list"
        case dict():
            return "a table"
    return f"a {type(value).__name__}"


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case list():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)


def _wrapped(text: str) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) > 96:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
    return [*lines, line] if line else lines

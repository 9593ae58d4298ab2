"""The door of a command line: everything that both programs do around their commands.

A command is a function that takes a ``Terminal`` first; ``command`` gives it ``--home`` and ``--json``,
which are accepted before the sub-command too. ``enter`` runs a program and turns whatever comes out into
an exit code and one line: never a traceback (that goes to ``<home>/log/cli.log``).
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from edge_node import logs
from edge_node.client import Mesh
from edge_node.commands import exits
from edge_node.commands.terminal import Terminal
from edge_node.home import VARIABLE, Home, chosen_home
from edge_node.settings import LogSettings
from security.errors import BadInput, EdgeweaveError, Refused

F = TypeVar("F", bound=Callable[..., Any])

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help=f"Home directory of the daemon (or {VARIABLE})."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write the result, or the error, as JSON to stdout.")
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="https://HOST:PORT", help="A gateway on another machine (or EDGEWEAVE_URL)."
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="ewt_…",
        help="With --url. Every user of this machine sees it here; --token-file or EDGEWEAVE_TOKEN hide it.",
    ),
]
TokenFileOption = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="With --url: its first line is the token, its mode 0600 (or EDGEWEAVE_TOKEN_FILE).",
    ),
]
CaOption = Annotated[
    str | None,
    typer.Option(
        "--ca",
        metavar="FILE|PIN",
        help="With --url: what `edge-gateway ca` prints; default: the system's trust (or EDGEWEAVE_CA).",
    ),
]
HERE_OR_AFAR: Final = "give one: --home means a daemon here, the other one a gateway on another machine"
Afar = Callable[[str, str, str, str, Home], Callable[[], Mesh]]
"""(URL, token, token file, CA, home) → a way to the gateway there. Raises: BadInput."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was said before and after the sub-command; None and "": nothing."""

    home: Path | None = None
    json: bool = False
    url: str = ""
    token: str = ""
    token_file: str = ""
    ca: str = ""

    @property
    def afar(self) -> dict[str, str]:
        """What means a gateway on another machine, by its option."""
        return {"--url": self.url, "--token": self.token, "--token-file": self.token_file, "--ca": self.ca}


# Typer has carried its own copy of click since 0.26; the classes are found through their public children.
_UsageFault: Final[type[Exception]] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


class Program:
    """One command line: its typer application and the home it means when none is named.

    afar: leads its commands to a daemon on another machine (``--url``); None: it has no such option.
    """

    def __init__(
        self, name: str, *, default_home: Callable[[], Home], help_text: str, afar: Afar | None = None
    ) -> None:
        self.name = name
        self.default_home = default_home
        self.afar = afar
        self.app = typer.Typer(
            name=name,
            help=help_text,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode="rich" if sys.stdout.isatty() else None,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )
        self.app.callback()(self._before if afar is None else self._before_afar)

    def _before(self, ctx: typer.Context, home: HomeOption = None, json_output: JsonOption = False) -> None:
        ctx.obj = Chosen(home, json_output)

    def _before_afar(
        self,
        ctx: typer.Context,
        home: HomeOption = None,
        json_output: JsonOption = False,
        url: UrlOption = None,
        token: TokenOption = None,
        token_file: TokenFileOption = None,
        ca: CaOption = None,
    ) -> None:
        if not url and (token or token_file or ca) and not os.environ.get("EDGEWEAVE_URL"):
            raise BadInput("--token, --token-file and --ca are for a gateway afar", fix="give --url too")
        ctx.obj = Chosen(home, json_output, url or "", token or "", token_file or "", ca or "")

    def group(
        self, name: str, help_text: str, listing: Callable[[Terminal], None], *, here: str = ""
    ) -> typer.Typer:
        """A command that does *listing* by itself and has sub-commands. here: as ``command``."""
        app = typer.Typer(help=help_text, invoke_without_command=True, rich_markup_mode=None)

        @app.callback()
        def before(ctx: typer.Context, home: HomeOption = None, json_output: JsonOption = False) -> None:
            ctx.obj = self._merged(ctx, home, json_output)
            if ctx.invoked_subcommand is None:
                listing(self._terminal(ctx.obj, ctx.command_path, here))

        self.app.add_typer(app, name=name)
        return app

    def command(
        self, name: str, *, app: typer.Typer | None = None, hidden: bool = False, here: str = ""
    ) -> Callable[[F], F]:
        """Register a function ``(terminal, …)`` as a command; its docstring is the help.

        here: why it can be given on the daemon's own machine only; empty: from afar too.
        """

        def register(function: F) -> F:
            signature = inspect.signature(function, eval_str=True)
            own = list(signature.parameters.values())[1:]
            shared = [
                inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
                inspect.Parameter(
                    "home", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=HomeOption
                ),
                inspect.Parameter(
                    "json_output", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption
                ),
            ]
            parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + shared

            def wrapper(*, ctx: typer.Context, home: Path | None, json_output: bool, **options: Any) -> None:
                chosen = self._merged(ctx, home, json_output)
                function(self._terminal(chosen, ctx.command_path, here), **options)

            functools.update_wrapper(wrapper, function)
            del wrapper.__wrapped__  # type: ignore[attr-defined]  # typer shall see our signature
            wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
            wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
            short = re.split(r"[;:.]", inspect.getdoc(function) or "", maxsplit=1)[0] + "."
            (app or self.app).command(name, hidden=hidden, short_help=short)(wrapper)
            return function

        return register

    def _merged(self, ctx: typer.Context, home: Path | None, as_json: bool) -> Chosen:
        before = ctx.obj if isinstance(ctx.obj, Chosen) else Chosen()
        home = before.home if home is None else home
        for option, given in before.afar.items():
            if home is not None and given:
                raise BadInput(f"--home and {option} were given", fix=HERE_OR_AFAR)
        return replace(before, home=home, json=before.json or as_json)

    def _terminal(self, chosen: Chosen, command: str, here: str) -> Terminal:
        home = chosen_home(chosen.home, default=self.default_home())
        said = os.environ.get
        url = chosen.url
        if self.afar is not None and chosen.home is None:  # who names a home means that, whatever is set
            url = url or said("EDGEWEAVE_URL", "")
        if self.afar is None or not url:
            return Terminal(self.name, home, chosen.json)
        if here:
            raise Refused(
                f"`{command}` is for the gateway's own machine: {here}",
                fix="run it there; or leave --url (EDGEWEAVE_URL) out to mean this one",
            )
        token, token_file = chosen.token, chosen.token_file
        if not token and not token_file:
            token, token_file = said("EDGEWEAVE_TOKEN", ""), said("EDGEWEAVE_TOKEN_FILE", "")
        ca = chosen.ca or said("EDGEWEAVE_CA", "")
        return Terminal(self.name, home, chosen.json, self.afar(url, token, token_file, ca, home))

    def enter(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command line; returns the exit code. Writes at most one line about an error."""
        words = list(sys.argv[1:] if arguments is None else arguments)
        as_json = "--json" in words
        try:
            code = self.app(args=words, prog_name=self.name, standalone_mode=False)
            sys.stdout.flush()
            if code == exits.INTERRUPTED:  # typer has caught Ctrl-C itself
                raise KeyboardInterrupt
            return code if isinstance(code, int) else exits.DONE
        except BrokenPipeError:  # `… | head`: whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return exits.DONE
        except typer.Exit as ended:
            return ended.exit_code
        except (typer.Abort, KeyboardInterrupt):
            return self._told(KeyboardInterrupt(), as_json)
        except _UsageFault as fault:
            if type(fault).__name__ == "NoArgsIsHelpError":
                sys.stderr.write(f"{fault}\n")
                return exits.BAD_INPUT
            return self._told(self._usage(fault), as_json)
        except EdgeweaveError as error:
            return self._told(error, as_json)
        except Exception as error:  # the door: a mistake of ours is told in one line, its story is kept
            return self._told(self._kept(error, words), as_json)

    def _usage(self, fault: BaseException) -> BadInput:
        context = getattr(fault, "ctx", None)
        command = getattr(context, "command_path", None) or self.name
        told = getattr(fault, "format_message", fault.__str__)()
        return BadInput(" ".join(str(told).split()).rstrip("."), fix=f"see `{command} --help`")

    def _told(self, error: BaseException, as_json: bool) -> int:
        code, _ = exits.code_of(error)
        if as_json:
            sys.stdout.write(exits.as_json(error) + "\n")
            sys.stdout.flush()
        else:
            sys.stderr.write(exits.as_line(error, self.name) + "\n")
        return code

    def _kept(self, error: Exception, words: list[str]) -> Exception:
        """The story of our mistake, in the home's log; what is told instead."""
        home = self._home_in(words)
        command = next((word for word in words if not word.startswith("-")), "")
        try:
            if not home.path.is_dir():
                return error
            logs.start(home.logs, LogSettings(file_bytes_max=1024 * 1024), name="cli.log", stderr=None)
            logging.getLogger(self.name).error("%s failed", command or "a command", exc_info=error)
            logs.stop()
        except OSError:
            return error
        kept = RuntimeError(
            f"{type(error).__name__}: {error} (a mistake of ours; see {home.logs / 'cli.log'})"
        )
        kept.__cause__ = error
        return kept

    def _home_in(self, words: list[str]) -> Home:
        given = None
        for index, word in enumerate(words):
            if word == "--home" and index + 1 < len(words):
                given = words[index + 1]
            elif word.startswith("--home="):
                given = word.removeprefix("--home=")
        return chosen_home(given, default=self.default_home())

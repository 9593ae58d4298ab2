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
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from edge_node import logs
from edge_node.commands import exits
from edge_node.commands.terminal import Terminal
from edge_node.home import VARIABLE, Home, chosen_home
from edge_node.settings import LogSettings
from security.errors import BadInput, EdgeweaveError

F = TypeVar("F", bound=Callable[..., Any])

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help=f"Home directory of the daemon (or {VARIABLE})."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write the result, or the error, as JSON to stdout.")
]

# Typer has carried its own copy of click since 0.26; the classes are found through their public children.
_UsageFault: Final[type[Exception]] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


class Program:
    """One command line: its typer application and the home it means when none is named."""

    def __init__(self, name: str, *, default_home: Callable[[], Home], help_text: str) -> None:
        self.name = name
        self.default_home = default_home
        self.app = typer.Typer(
            name=name,
            help=help_text,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode="rich" if sys.stdout.isatty() else None,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )
        self.app.callback()(self._before)

    def _before(self, ctx: typer.Context, home: HomeOption = None, json_output: JsonOption = False) -> None:
        ctx.obj = (home, json_output)

    def group(self, name: str, help_text: str, listing: Callable[[Terminal], None]) -> typer.Typer:
        """A command that does *listing* by itself and has sub-commands."""
        app = typer.Typer(help=help_text, invoke_without_command=True, rich_markup_mode=None)

        @app.callback()
        def before(ctx: typer.Context, home: HomeOption = None, json_output: JsonOption = False) -> None:
            ctx.obj = self._merged(ctx, home, json_output)
            if ctx.invoked_subcommand is None:
                listing(self._terminal(ctx.obj))

        self.app.add_typer(app, name=name)
        return app

    def command(self, name: str, *, app: typer.Typer | None = None, hidden: bool = False) -> Callable[[F], F]:
        """Register a function ``(terminal, …)`` as a command; its docstring is the help."""

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
                function(self._terminal(self._merged(ctx, home, json_output)), **options)

            functools.update_wrapper(wrapper, function)
            del wrapper.__wrapped__  # type: ignore[attr-defined]  # typer shall see our signature
            wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
            wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
            short = re.split(r"[;:.]", inspect.getdoc(function) or "", maxsplit=1)[0] + "."
            (app or self.app).command(name, hidden=hidden, short_help=short)(wrapper)
            return function

        return register

    def _merged(self, ctx: typer.Context, home: Path | None, as_json: bool) -> tuple[Path | None, bool]:
        before = ctx.obj if isinstance(ctx.obj, tuple) else (None, False)
        return (before[0] if home is None else home, before[1] or as_json)

    def _terminal(self, chosen: tuple[Path | None, bool]) -> Terminal:
        home = chosen_home(chosen[0], default=self.default_home())
        return Terminal(self.name, home, chosen[1])

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

"""The command line: `limner serve`, `limner run` and the other `COMMANDS`, each one file of this folder.

A command is a typed function of the file's own name that yields lines. Its signature becomes its arguments, its
docstring its help: what is positional-only in Python is so on the command line, all else is a flag; a parameter of type
`Settings` takes every setting as a flag.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, signature  # by name: a command of this folder is called `inspect`
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from limner import __version__
from limner.errors import LimnerError
from limner.graph.schema import parse_docstring
from limner.settings import Settings, add_flags, make_settings

COMMANDS = ("serve", "run", "generate", "inspect", "quantize", "models", "keys", "openapi", "doctor", "report")
DEFAULT = "serve"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for an explained failure, 2 for wrong usage, 130 for ^C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["--version"], ["-V"]):
        print(f"limner {__version__}")
        return 0
    if given[:1] in (["--help"], ["-h"], ["help"]):
        print(overview())
        return 0
    # ComfyUI is started with flags alone; so is this.
    name = given.pop(0) if given and not given[0].startswith("-") else DEFAULT
    if name not in COMMANDS:
        print(f"limner: there is no command `{name}`.\n\n{overview()}", file=sys.stderr)
        return 2
    function = command(name)
    parser = make_parser(name, function)
    parsed = vars(parser.parse_args(given))
    try:
        positional, named = bind(function, parsed)
        result = function(*positional, **named)
        for line in result or ():
            print(line, flush=True)
    except LimnerError as error:
        print(f"limner: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever reads the lines has had enough; what is left must not be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def command(name: str) -> Callable[..., Iterable[str] | None]:
    """The function of a command, from the file of its name."""
    found: Callable[..., Iterable[str] | None] = getattr(importlib.import_module(f"limner.cli.{name}"), name)
    return found


def overview() -> str:
    """The commands, a line each."""
    lines = ["usage: limner COMMAND …        `limner COMMAND --help` says more", ""]
    for name in COMMANDS:
        prose, _ = parse_docstring(command(name).__doc__)
        lines.append(f"  {name:10} {prose.splitlines()[0]}")
    return "\n".join(lines)


def make_parser(name: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    """The parser of a command: one argument a parameter, positional where there is no default."""
    prose, about = parse_docstring(function.__doc__)
    hints = get_type_hints(function)
    words = [one for one in signature(function).parameters.values() if one.kind is Parameter.POSITIONAL_ONLY]
    shown = [one.name.upper() if one.default is Parameter.empty else f"[{one.name.upper()}]" for one in words]
    usage = " ".join(["limner", name, *shown, "[options]"])
    parser = argparse.ArgumentParser(f"limner {name}", usage, prose, allow_abbrev=False)
    settings = parser.add_argument_group("settings")  # a group of its own, so that the command's options are said first
    for parameter in signature(function).parameters.values():
        hint = _plain(hints[parameter.name])
        if hint is Settings:
            add_flags(settings)
            settings.add_argument("--config", type=Path, default=None, help="A limner.toml to read settings from.")
            continue
        flag = "--" + parameter.name.replace("_", "-")
        text = about.get(parameter.name, "")
        if parameter in words:
            left_out: dict[str, Any] = {} if parameter.default is Parameter.empty else {"nargs": "?"}
            parser.add_argument(parameter.name, type=hint, default=parameter.default, help=text, **left_out)
        elif hint is bool:
            parser.add_argument(flag, action="store_true", help=text)
        elif get_origin(hint) is tuple:
            parser.add_argument(flag, type=_element(hint), action="append", default=None, help=text)
        else:
            parser.add_argument(flag, type=hint, default=parameter.default, help=text)
    return parser


def _plain(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return next(member for member in get_args(hint) if member is not type(None))
    return hint


def _element(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is tuple else hint


def bind(function: Callable[..., Any], parsed: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of the call, positional ones and named ones, with the settings gathered into one value."""
    hints = get_type_hints(function)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for parameter in signature(function).parameters.values():
        hint = _plain(hints[parameter.name])
        if hint is Settings:
            file = parsed["config"] or (Path("limner.toml") if Path("limner.toml").exists() else None)
            value: Any = make_settings(parsed, os.environ, file)
        else:
            value = parsed[parameter.name]
        if get_origin(hint) is tuple:
            value = tuple(value or ())
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            positional.append(value)
        else:
            named[parameter.name] = value
    return positional, named

"""The `cgrseg` command: the list of commands, and one line on standard error for every mistake.

Cyclopts reads the command line: flags, their types and their help come from the signatures and docstrings of the
commands. Nothing heavy is imported before a command runs, so help is quick and Ctrl-C works from the start.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inspect import BoundArguments

    from cyclopts import App, ArgumentCollection, CycloptsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cgrseg ARGV`.

    Returns:
        The exit code: 0 done, 1 a part failed, 2 bad input, 130 stopped with Ctrl-C; training has more.
    """
    try:
        if argv is None:
            signal.signal(signal.SIGINT, stop)
            for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end a command
                if isinstance(stream, TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace")
        code = run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("cgrseg: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.strerror}: {error.filename}" if error.filename else str(error))
    except (ValueError, MemoryError) as error:
        return _fail(str(error) or "out of memory")


def stop(number: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C: KeyboardInterrupt, except during an import, where C++ code would abort on it."""
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:
            os.write(2, b"cgrseg: stopped\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def _fail(message: str) -> int:
    from cgrseg._text import printable

    print(f"cgrseg: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2


def run(arguments: list[str]) -> int:
    """Run the command of the arguments; returns its exit code."""
    command, bound = parse(arguments)

    from cgrseg._process import keep_memory, no_telemetry, share_cores

    share_cores()
    keep_memory()
    no_telemetry()
    return command(*bound.args, **bound.kwargs) or 0


def parse(arguments: list[str]) -> tuple[Callable[..., int | None], BoundArguments]:
    """The function of a command and its arguments.

    Raises:
        ValueError: the arguments are wrong.
    """
    from cyclopts import CycloptsError

    try:
        command, bound, _ = make_app().parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise ValueError(explain(error)) from None
    return command, bound


def make_app() -> App:
    """The command line with all its commands, in groups."""
    from cyclopts import App, Group, Parameter
    from cyclopts.help import DefaultFormatter, PanelSpec
    from rich.box import Box
    from rich.console import Console

    import cgrseg

    from . import export, paper, recipe, ship, start, train, use

    class QuietPipe(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    app = App(
        name="cgrseg",
        help="Semantic segmentation with CGRSeg: label every pixel of an image.",
        version=lambda: f"cgrseg {cgrseg.__version__}",
        version_flags=("--version", "-V"),
        default_parameter=Parameter(
            consume_multiple=True, allow_repeating=True, negative=(), show_default=default_text
        ),
        config=check_whole_numbers,
        console=QuietPipe(),
        help_formatter=DefaultFormatter(panel_spec=PanelSpec(box=Box("    \n" * 8), padding=(0, 0, 0, 3))),
        group_commands=Group("Options", sort_key=99),
    )
    groups = {
        "Start": (start.demo, start.app, start.doctor),
        "Use": (use.predict, use.info),
        "Train": (train.check_data, train.import_data, train.convert_masks, recipe.train, train.val),
        "Ship": (export.export, ship.benchmark, ship.serve, ship.push, ship.convert),
        "Paper": (paper.tables, paper.figures, paper.study),
    }
    for number, (title, commands) in enumerate(groups.items()):
        group = Group(title, sort_key=number)
        for place, command in enumerate(commands):
            app.command(command, group=group, sort_key=place)
    app["train"].config = (recipe.read_recipe, check_whole_numbers)
    app.register_install_completion_command(help="Install completion for your shell.")
    return app


def default_text(value: object) -> str | None:
    """A default for the help pages; None shows nothing."""
    if value is None or value is False or value in ((), [], {}):
        return None
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def check_whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse `--batch 2.5`, which Cyclopts would round."""
    from typing import get_args

    from cyclopts import CoercionError

    for argument in arguments:
        if int in (argument.resolved_hint, *get_args(argument.resolved_hint)):
            for token in argument.tokens:
                if "." in token.value:
                    raise CoercionError(argument=argument, token=token, target_type=int)


def explain(error: CycloptsError) -> str:
    """What is wrong with the command line: Cyclopts' own text, except where ours says more."""
    from cyclopts import (
        MissingArgumentError,
        UnknownCommandError,
        UnknownOptionError,
        UnusedCliTokensError,
        ValidationError,
    )

    assert error.app is not None
    hint = f"see `{' '.join(('cgrseg', *(error.command_chain or ())))} --help`"
    argument, unused = error.argument, list(error.unused_tokens or ())
    if isinstance(error, UnknownCommandError):
        return _unknown(unused[0], list(error.app), hint)
    if isinstance(error, UnknownOptionError):
        unused = [error.token.keyword or error.token.value]
    if isinstance(error, UnknownOptionError | MissingArgumentError):
        names = [name for each in error.app.assemble_argument_collection() for name in each.names]
        names += list(error.app)  # --help and --version
        for word in unused:
            if word.startswith("-") and word.partition("=")[0].replace("_", "-") not in names:
                return _unknown(word, names, hint)
    if isinstance(error, MissingArgumentError) and argument is not None:
        if not error.keyword:
            return f"{argument.name} is missing: {hint}"
        count = argument.token_count()[0]
        return f"{error.keyword} needs {'a value' if count == 1 else f'{count} values'}: {hint}"
    if isinstance(error, ValidationError) and argument is not None and argument.tokens:
        rule = error.exception_message.removeprefix("Must be ").rstrip(".")
        return f"{argument.name} is {argument.tokens[0].value}: it must be {rule}"
    if isinstance(error, UnusedCliTokensError):
        return f"unexpected {unused[0]}: {hint}"
    return str(error)


def _unknown(word: str, known: list[str], hint: str) -> str:
    from difflib import get_close_matches

    word = word.partition("=")[0]
    key = word.replace("_", "-")
    close = [name for name in known if name.endswith(f".{key.lstrip('-')}")] or get_close_matches(key, known, n=1)
    kind = "option" if word.startswith("-") else "command"
    return f"unknown {kind} {word}: {f'did you mean {close[0]}?' if close else hint}"

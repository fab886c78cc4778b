"""The door of the `cgrseg` command: finds the verb, makes flags from its signature, words what went wrong."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from cgrseg._process import keep_memory

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

# Verb -> what it does. The verb `check-data` is the function `check_data` in `cgrseg/cli/check_data.py`.
VERBS = {
    "demo": "label a sample photo, then train a small model on drawn scenes",
    "train": "train a model on a folder of labelled photos",
    "val": "score weights on labelled photos: mIoU, tables, pictures",
    "predict": "label photos, folders of photos and videos",
    "benchmark": "measure how fast models and files are here, side by side",
    "export": "write weights as files for ONNX Runtime, OpenVINO and torch.export",
    "serve": "label photos behind an HTTP address",
    "info": "print what a model or a weights file holds and costs",
    "tables": "print the paper's tables with our numbers beside them",
    "figures": "draw the paper's figures from its numbers and your weights",
    "check-data": "find what is wrong with a dataset before training does",
    "convert-masks": "turn masks in colours into masks of class ids",
    "study": "train a grid of arms and seeds and judge claims by it",
    "convert": "turn foreign weights into a weights file of ours",
    "app": "open a page that labels photos, the camera and videos",
    "push": "share weights on the Hugging Face hub, with their card",
    "doctor": "show what this machine has and lacks, and test it",
}
METAVARS = {"weights": "FILE", "data": "FOLDER", "out": "PATH"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cgrseg ARGV`; return 0 when done, 1 when a part failed, 2 on bad input, 130 on Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments else ""
    if verb in VERBS:
        return _run(verb, arguments[1:])
    if verb in ("-h", "--help"):
        print(_overview())
        return 0
    if verb == "--version":
        import cgrseg

        print(f"cgrseg {cgrseg.__version__}")
        return 0
    if not verb:
        print(_overview(), file=sys.stderr)
        return 2
    kind = "option" if verb.startswith("-") else "verb"
    return _complain(f"no {kind} {verb!r}{_suggestion(verb, [*VERBS, '--help', '--version'])}")


def _run(verb: str, arguments: list[str]) -> int:
    name = verb.replace("-", "_")
    try:
        function: Callable[..., int | None] = getattr(import_module(f"cgrseg.cli.{name}"), name)
        parser = make_parser(function, prog=f"cgrseg {verb}")
        if {"-h", "--help"} & set(arguments):
            print(re.sub(r"<class\s+'(\w+)'>", r"\1", parser.format_help()), end="")
            return 0
        chosen = parse(function, arguments, parser=parser)
        if chosen is None:  # --print_config did its work
            return 0
        keep_memory()
        code = function(**chosen) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("cgrseg: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _complain(f"{error.strerror}: {error.filename}" if error.filename else str(error))
    except (ValueError, MemoryError) as error:
        return _complain(str(error))


def make_parser(function: Callable[..., object], *, prog: str) -> ArgumentParser:
    """Make the parser of a verb: its arguments from the signature, their help from the docstring.

    Parameters before the `*` of the signature that have no default are positional (a list takes one or more);
    all others are flags (`short_side` is `--short-side`; a bool that is False by default takes no value, a
    `list[...] | None` one or more), required where they have no default. A dataclass brings a flag for each of its
    fields (dotted for dataclasses within it), `--config FILE` to read them from YAML and `--print_config` to print
    them.
    """
    from docstring_parser import parse as parse_docstring
    from jsonargparse import ArgumentParser

    text = parse_docstring(function.__doc__ or "")
    help_of = {parameter.arg_name: parameter.description or "" for parameter in text.params}
    about = "\n\n".join(part for part in (text.short_description, text.long_description) if part)
    parser = ArgumentParser(prog=prog, description=about, exit_on_error=False, allow_abbrev=False)
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        hint, help_text = hints[name], help_of.get(name, " ")
        required = parameter.default is parameter.empty
        if is_dataclass(hint):
            parser.add_argument("--config", action="config", metavar="FILE", help="a recipe (YAML); flags go over it")
            parser.add_class_arguments(cast(type, hint))
            continue
        flag, metavar = f"--{name.replace('_', '-')}", METAVARS.get(name)
        if required and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            if get_origin(hint) is list:
                (item,) = get_args(hint)
                parser.add_argument(name, type=item, nargs="+", metavar=name.upper(), help=help_text)
            else:
                parser.add_argument(name, type=hint, metavar=name.upper(), help=help_text)
        elif hint is bool and parameter.default is False:
            parser.add_argument(flag, action="store_true", help=help_text)
        elif (item := _item(hint)) is not None:
            parser.add_argument(flag, type=item, nargs="+", default=parameter.default, metavar=metavar, help=help_text)
        elif required:
            parser.add_argument(flag, type=hint, required=True, metavar=metavar, help=help_text)
        else:
            parser.add_argument(flag, type=hint, default=parameter.default, metavar=metavar, help=help_text)
    return parser


def _item(hint: object) -> type | None:
    """What a flag's list holds, for `list[...] | None`; None for any other hint."""
    lists = [one for one in get_args(hint) if get_origin(one) is list]
    return get_args(lists[0])[0] if lists else None


def parse(
    function: Callable[..., object], arguments: Sequence[str], *, parser: ArgumentParser
) -> dict[str, Any] | None:
    """Read `arguments` into the keyword arguments of `function`, with the parser that was made from it.

    None: the arguments asked for the configuration, and it has been printed.

    Raises:
        ValueError: the arguments do not fit the signature.
    """
    from argparse import ArgumentError

    known = {option for action in parser._actions for option in action.option_strings}
    arguments = [_known_spelling(word, known) for word in arguments]
    try:
        found = vars(parser.instantiate(parser.parse_args(arguments)))
    except ArgumentError as error:
        raise ValueError(_explanation(str(error), parser, function, arguments)) from None
    except SystemExit as stop:
        if stop.code:
            raise
        return None
    chosen = {}
    for name, hint in get_type_hints(function).items():
        if is_dataclass(hint):
            chosen[name] = cast(type, hint)(**{field.name: found[field.name] for field in fields(hint)})
        elif name != "return":
            chosen[name] = found[name]
    return chosen


def _known_spelling(word: str, known: set[str]) -> str:
    """--val-every as --val_every, and the other way round, where only the other one is an option."""
    option, equals, value = word.partition("=")
    for spelling in (option, "--" + option[2:].replace("-", "_"), "--" + option[2:].replace("_", "-")):
        if option.startswith("--") and spelling in known:
            return spelling + equals + value
    return word


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {summary}" for verb, summary in VERBS.items())
    return (
        "usage: cgrseg VERB ...\n\n"
        "A photo goes in, a labelled picture comes out: semantic segmentation with CGRSeg.\n\n"
        f"verbs:\n{verbs}\n\n`cgrseg VERB --help` explains a verb; `cgrseg --version` prints the version."
    )


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f": did you mean {close[0]}?" if close else ": `--help` lists what there is"


def _explanation(
    message: str, parser: ArgumentParser, function: Callable[..., object], arguments: Sequence[str]
) -> str:
    """The parser's message in the words of someone who typed a command."""
    spelling = {action.dest: (*action.option_strings, action.dest.upper())[0] for action in parser._actions}
    options = [option for action in parser._actions for option in action.option_strings]
    for word in arguments:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in (*options, "--"):
            return f"no option {option}{_suggestion(option, options)}"
    if match := re.match(r"the following arguments are required: (.*)", message):
        return f"missing {', '.join(spelling.get(name, name) for name in match[1].split(', '))}"
    if match := re.match(r"""Parser key "config": File does not exist: '(.*)'""", message):
        return f"--config: no file {match[1]}: check the path, recipes end in .yaml"
    if match := re.match(r'Parser key "([\w.]+)":.*(?:Got|Given) value: (.*)', message, re.DOTALL):
        option = spelling.get(match[1], f"--{match[1]}")
        return f"{option} takes {_wording(_hint_of(function, match[1]))}, not {match[2]}"
    return message


def _hint_of(function: Callable[..., object], key: str) -> object:
    """The type of a parameter, or of a field of a dataclass parameter: "lr" in "optim.lr"."""
    hints = get_type_hints(function)
    owner, parts = hints, key.split(".")
    if parts[0] not in hints:
        owner = next((get_type_hints(hint) for hint in hints.values() if is_dataclass(hint)), {})
    for part in parts[:-1]:
        owner = get_type_hints(owner.get(part, object))
    return owner.get(parts[-1], "another value")


def _wording(hint: object) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_wording(part) for part in get_args(hint) if part is not NoneType)
    plain = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return plain.get(cast(type, hint), str(hint))


def _complain(message: str) -> int:
    print(f"cgrseg: {' '.join(message.split())}", file=sys.stderr)
    return 2

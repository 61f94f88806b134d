"""The command line: ``kvmlab COMMAND``, one file of this folder for each command.

A command is a module with ``HELP`` (one line), ``EXAMPLES`` (lines to try),
``add_arguments(parser)`` and ``run(args)``, which returns the exit status.  It loads the engine
inside ``run``, so that ``kvmlab --help`` is quick.
What a user got wrong ends as one line on standard error and exit status 2, never as a traceback.
"""

import argparse
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn, TypeVar

import kvmlab
from kvmlab.base.errors import BadChoice, KvmlabError

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
BROKEN_PIPE = 141  # 128 + SIGPIPE

DESIGNS = ("native", "shadow", "ept", "npt", "agile", "l2-ept", "l2-shadow")
"""`machine.DESIGNS`, here without the engine."""

STATUSES = f"""exit status:
  0    done
  {BAD_INPUT}    what was asked cannot be: one line on standard error says what is wrong
  {INTERRUPTED}  interrupted
  {BROKEN_PIPE}  whoever read the output went away
  kvmlab record ends with the status of the program that it ran.

Figures are printed as JSON with --json. Colours are for terminals: NO_COLOR turns them off."""

_Value = TypeVar("_Value")


class _Help(argparse.HelpFormatter):
    """Help whose own line breaks stay, as in lists of examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are `BadChoice`: one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        raise BadChoice(f"{message}; see '{self.prog} --help'")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 is success, 2 a mistake of the user, 130 an interrupt, 141 a reader that went away.
    """
    try:
        args = _parser().parse_args(argv)
        status: int = args.run(args)
        sys.stdout.flush()  # here, where a reader that is gone can still be noticed
    except KvmlabError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        return BROKEN_PIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _refuse(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        _refuse("interrupted")
        return INTERRUPTED
    return status


def argument(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """``parse`` as a ``type=`` of argparse that keeps the text of a `KvmlabError`.

    Our errors are ValueErrors too, and argparse would say only "invalid value" for those.
    """

    def parsed(text: str) -> _Value:
        try:
            return parse(text)
        except KvmlabError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def commands() -> dict[str, ModuleType]:
    """The commands by name: every module of this folder that has no leading underscore."""
    names = [found.name for found in pkgutil.iter_modules(__path__) if found.name[0] != "_"]
    return {name: import_module(f"{__name__}.{name}") for name in sorted(names)}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kvmlab",
        description="How KVM virtualizes memory: labs, walks and comparisons.",
        epilog=STATUSES,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kvmlab {kvmlab.__version__}")
    choices = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in commands().items():
        sub = choices.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            epilog=_examples(command),
            formatter_class=_Help,
            allow_abbrev=False,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def _examples(command: ModuleType) -> str:
    """The command's examples as the end of its help."""
    return "\n  ".join(["examples:", *command.EXAMPLES])


def _refuse(message: str) -> int:
    print("kvmlab:", " ".join(message.split()), file=sys.stderr)
    return BAD_INPUT

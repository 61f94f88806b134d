"""A line for virsh, read: which command, its options and flags, and what is wrong with it.

libvirt, tools/vsh.c: vshCommandParse().
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from kvmlab.management.connection import virConnect


class Refused(Exception):
    """A command that failed; its lines go to standard error, each after ``error: ``."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines


@dataclass(slots=True)
class Command:
    """One command: what does it, its positional options, its flags, its options with a value."""

    run: Callable[[virConnect, "Options"], str]
    positional: tuple[str, ...] = ("domain",)
    flags: tuple[str, ...] = ()
    valued: tuple[str, ...] = ()


@dataclass(slots=True)
class Options:
    """What was given on a command line."""

    values: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)


def commands_of(line: str) -> list[list[str]]:
    """The words of each command of ``line``: a ``;`` ends one unless it is quoted.

    vshCommandStringGetArg(): quotes may begin and end within a word, a backslash takes the next
    character as it is, but between single quotes; a single quote need not be closed.
    """
    commands: list[list[str]] = [[]]
    word: str | None = None
    quote, characters = "", iter(line)
    for one in characters:
        if quote != "'" and one == "\\":
            word = (word or "") + _escaped(characters)
        elif one == quote:
            quote = ""
        elif not quote and one in "'\"":
            quote, word = one, word or ""
        elif quote or not (one.isspace() or one == ";"):
            word = (word or "") + one
        else:
            commands[-1] += [] if word is None else [word]
            word = None
            if one in ";\n":
                commands.append([])
    if quote == '"':
        raise Refused('missing "')
    commands[-1] += [] if word is None else [word]
    return [one for one in commands if one]


def _escaped(characters: Iterator[str]) -> str:
    found = next(characters, "")
    if not found:
        raise Refused("dangling \\")
    return found


def parse(words: list[str], known: Mapping[str, Command]) -> tuple[Command, Options]:
    """The command that ``words`` name and what they give it."""
    name, rest = words[0], words[1:]
    command = known.get(name)
    if command is None:
        raise Refused(f"unknown command: '{name}'")
    options, waiting = Options(), command.positional
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            free = [one for one in waiting if one not in options.values]
            if not free:
                raise Refused(f"unexpected data '{word}'")
            options.values[free[0]] = word
            continue
        option, equals, value = word[2:].partition("=")
        if option in command.flags and not equals:
            options.flags.add(option)
        elif option in (*waiting, *command.valued):
            if not equals and not rest:
                raise Refused(f"expected syntax: --{option} <{_kind(option)}>")
            options.values[option] = value if equals else rest.pop(0)
        else:
            raise Refused(f"command '{name}' doesn't support option --{option}")
    missing = [one for one in command.positional if one not in options.values]
    if missing:
        raise Refused(*[f"command '{name}' requires {_wanted(one)} option" for one in missing])
    return command, options


def _kind(option: str) -> str:
    return "number" if option in ("period", "size") else "string"


def _wanted(option: str) -> str:
    return f"<{option}>" if option == "domain" else f"--{option}"

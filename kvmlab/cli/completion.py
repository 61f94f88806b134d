"""``kvmlab completion``: what bash, zsh or fish need to complete kvmlab's words."""

import argparse
from collections.abc import Callable, Iterator

HELP = "Print a script that lets your shell complete kvmlab's commands and options."
EXAMPLES = (
    'eval "$(kvmlab completion bash)"',
    "kvmlab completion fish",
)
SHELLS = ("bash", "zsh", "fish")

BASH = """_kvmlab() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words
  case "$COMP_CWORD:${{COMP_WORDS[1]}}" in
    1:*) words="{commands}" ;;
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _kvmlab kvmlab
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which shell; for bash: ``eval "$(kvmlab completion bash)"``."""
    parser.add_argument("shell", choices=SHELLS, help="zsh reads bash's script by bashcompinit")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    offered = words()
    print(fish(offered) if args.shell == "fish" else bash(offered, zsh=args.shell == "zsh"), end="")
    return 0


def words() -> dict[str, list[str]]:
    """What can stand after each command: its options, and the values that it lists."""
    from kvmlab.cli import commands

    return {name: _words(command.add_arguments) for name, command in commands().items()}


def _words(add_arguments: Callable[[argparse.ArgumentParser], None]) -> list[str]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return sorted(set(_offered(parser)))


def _offered(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Options and listed values of a parser, and of those that its own words lead to."""
    for action in parser._actions:  # noqa: SLF001  argparse offers no other list of its options
        yield from action.option_strings
        yield from map(str, action.choices or ())
        if isinstance(action.choices, dict):
            for inner in action.choices.values():
                yield from _offered(inner)


def bash(offered: dict[str, list[str]], *, zsh: bool) -> str:
    """A function for bash's ``complete``; zsh is told to understand it."""
    cases = "\n".join(
        f'    *:{name}) words="{" ".join(values)}" ;;' for name, values in offered.items()
    )
    script = BASH.format(commands=" ".join(offered), cases=cases)
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if zsh else script


def fish(offered: dict[str, list[str]]) -> str:
    """One ``complete`` line for the commands and one for each command's words."""
    first = f"complete -c kvmlab -n __fish_use_subcommand -f -a '{' '.join(offered)}'"
    rest = [
        f"complete -c kvmlab -n '__fish_seen_subcommand_from {name}' -a '{' '.join(values)}'"
        for name, values in offered.items()
    ]
    return "\n".join([first, *rest]) + "\n"

"""The command line as a user meets it: help is quick, mistakes are one line, never a traceback."""

import errno
import os
import pty
import re
import shlex
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

import kvmlab
from kvmlab import cli
from kvmlab.base.errors import BadAddress, BadSize, KvmlabError


def kvmlab_command(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m kvmlab`` and return what it said."""
    command = [sys.executable, "-m", "kvmlab", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, **options
    )


def planted(run, add_arguments=lambda parser: None) -> SimpleNamespace:
    """A command module whose ``run`` is given."""
    return SimpleNamespace(
        HELP="Do what a test wants.", EXAMPLES=(), add_arguments=add_arguments, run=run
    )


@pytest.fixture
def command(monkeypatch):
    """Make ``kvmlab planted`` do what is given."""

    def plant(run, **more):
        monkeypatch.setattr(cli, "commands", lambda: {"planted": planted(run, **more)})

    return plant


def failing(error: BaseException):
    def run(args):
        raise error

    return run


def test_version():
    done = kvmlab_command("--version")

    assert (done.returncode, done.stdout) == (0, f"kvmlab {kvmlab.__version__}\n")


def test_help_names_every_command():
    done = kvmlab_command("--help")

    assert done.returncode == 0
    for name, module in cli.commands().items():
        assert f"  {name}" in done.stdout
        assert module.HELP.split()[0] in done.stdout


def test_help_loads_no_engine_and_no_widgets():
    script = (
        "import sys, kvmlab.cli as c; c.commands();"
        "print(*{'numpy', 'rich', 'ipywidgets', 'bqplot', 'jupyterlab'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == "\n"


def test_every_command_has_its_parts():
    for name, module in cli.commands().items():
        assert isinstance(module, ModuleType)
        assert "\n" not in module.HELP, name
        assert callable(module.add_arguments), name
        assert callable(module.run), name


@pytest.mark.parametrize("name", cli.commands())
def test_every_help_ends_with_examples_that_are_right(name, capsys):
    """They parse, and one of them at least is of the command itself."""
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    told = capsys.readouterr().out.partition("\nexamples:\n")[2].splitlines()
    assert end.value.code == 0
    assert [line.strip() for line in told] == list(cli.commands()[name].EXAMPLES)
    lines = [line.replace('eval "$(', "").replace(')"', "") for line in map(str.strip, told)]
    assert any(line.startswith(f"kvmlab {name}") for line in lines)
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "kvmlab"
        assert cli._parser().parse_args(arguments).run


def test_help_says_what_an_exit_status_means():
    told = kvmlab_command("--help").stdout
    for status in (0, cli.BAD_INPUT, cli.INTERRUPTED, cli.BROKEN_PIPE):
        assert f"\n  {status:<3}  " in told


PRINTING = (
    ["doctor"],
    ["walk", "--mmu", "native"],
    ["compare", "ls", "--limit", "200", "--mmu", "ept"],
    ["sweep", "ls", "--limit", "200", "--mmu", "ept", "--jobs", "1"],
    ["quiz", "-s", "1", "-n", "1", "-c"],
)


@pytest.mark.parametrize("arguments", PRINTING, ids=lambda one: one[0])
def test_what_goes_to_a_pipe_has_no_colour(arguments):
    done = kvmlab_command(*arguments)

    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


def test_a_terminal_without_colours_gets_none():
    """Bold and dim are left: they are no colour."""
    told = {}
    for name, more in (("plain", {"NO_COLOR": "1"}), ("usual", {"TERM": "xterm-256color"})):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "kvmlab", "doctor"]
        environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
        environment |= {"TERM": "xterm-256color", **more}
        subprocess.run(command, stdout=theirs, env=environment, check=True, timeout=60)
        os.close(theirs)
        told[name] = os.read(ours, 100_000).decode()
        os.close(ours)
    assert "\x1b[" in told["usual"]
    assert not re.search(r"\x1b\[[\d;]*[349][0-7]m", told["plain"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["ballast"],
        ["--ballast"],
        ["lab", "--port"],
        ["lab", "--por", "8888"],
        ["lab", "one", "two"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_line_and_2(arguments):
    done = kvmlab_command(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kvmlab: ")
    assert done.stderr.count("\n") == 1
    assert "--help" in done.stderr


@pytest.mark.parametrize(
    "error, said",
    [
        (KvmlabError("the frame is gone"), "the frame is gone"),
        (BadSize("size '0' is no size;\nwrite 4K"), "size '0' is no size; write 4K"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.xz"),
         "a.xz: No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("odd"), "odd"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_refusal_is_one_line_and_2(command, capsys, error, said):
    command(failing(error))

    assert cli.main(["planted"]) == 2
    assert capsys.readouterr() == ("", f"kvmlab: {said}\n")


def test_an_interrupt_is_one_line_and_130(command, capsys):
    command(failing(KeyboardInterrupt()))

    assert cli.main(["planted"]) == 130
    assert capsys.readouterr().err == "kvmlab: interrupted\n"


def test_a_mistake_of_ours_is_not_hidden(command):
    command(failing(ZeroDivisionError()))

    with pytest.raises(ZeroDivisionError):
        cli.main(["planted"])


def test_an_argument_keeps_the_words_of_our_errors(command, capsys):
    """argparse alone would say "invalid address value" and drop what would be right."""

    def parse_address(text):
        raise BadAddress(f"address {text!r} is not an address; write hex")

    command(
        lambda args: 0,
        add_arguments=lambda parser: parser.add_argument("--gva", type=cli.argument(parse_address)),
    )

    assert cli.main(["planted", "--gva", "zz"]) == 2
    assert "address 'zz' is not an address; write hex" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    """As in ``kvmlab walk | head``: the pipe is closed before the last line is written."""
    script = (
        "import sys, types, kvmlab.cli as c;"
        "run = lambda args: print('line\\n' * 100000) or 0;"
        "c.commands = lambda: {'planted': types.SimpleNamespace("
        "HELP='x', EXAMPLES=(), add_arguments=lambda p: None, run=run)};"
        "sys.exit(c.main(['planted']))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (141, b"")

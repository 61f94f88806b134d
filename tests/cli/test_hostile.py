"""What others made is never believed: each command ends in one line, soon, and writes nothing."""

import base64
import gzip
import json
import lzma
import os
import time
import zlib

import pytest

from kvmlab import cli
from kvmlab.course.progress import BadProgress, Progress
from kvmlab.qemu.monitor import QmpError, _parse
from kvmlab.study.share import CHECK, HEAD, LARGEST
from kvmlab.workloads import files

DEEP = b"[" * 100_000
SOON = 20  # seconds, of which none is needed on a machine at rest


def bomb(pack):
    """Zeros that unpack to far more than any trace of so few bytes."""
    return pack(bytes(64 << 20))


def tower(depth):
    """gzip in gzip in gzip: unpacked once, it is still no trace."""
    data = b"I  04001000,3\n"
    for _ in range(depth):
        data = gzip.compress(data)
    return data


FILES = {
    "empty": b"",
    "zeros": bytes(100_000),
    "deep": DEEP,
    "gzip-bomb": lambda: bomb(lambda data: gzip.compress(data, 9)),
    "xz-bomb": lambda: bomb(lambda data: lzma.compress(data, preset=1)),
    "tower": lambda: tower(5),
    "torn-gzip": gzip.compress(b"I  04001000,3\n" * 1000)[:-20],
    "torn-xz": lzma.compress(b"I  04001000,3\n" * 1000)[:-20],
    "line": b"I  04001000,3\n" + b"x" * 200_000,
    "pickle": b"\x80\x04\x95\x1e\x00\x00\x00cos\nsystem\n(S'touch pwned'\ntR.",
    "escape": b"\x1b]0;owned\x07\n" * 50,
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of its own, in which nothing may appear."""
    inner = tmp_path / "here"
    inner.mkdir()
    monkeypatch.chdir(inner)
    monkeypatch.setattr(files, "ANY_RATIO", 1 << 20)  # else the bomb must be a large one
    return inner


def refused(capsys, *arguments):
    """The one line of a command that was refused."""
    started = time.process_time()
    assert cli.main(list(map(str, arguments))) == 2
    assert time.process_time() - started < SOON
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kvmlab: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert len(err) < 500
    return err


@pytest.mark.parametrize("command", [["compare"], ["sweep", "--jobs", "1"], ["export", "modes"]])
@pytest.mark.parametrize("name", FILES)
def test_a_trace_that_is_none_is_one_line(capsys, place, tmp_path, command, name):
    path = tmp_path / "given"
    contents = FILES[name]
    path.write_bytes(contents if isinstance(contents, bytes) else contents())
    out = ["--out", place / "x.html"] if command[0] == "export" else []
    assert "given" in refused(capsys, *command, path, *out)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", ".", "pipe", "bad\nname\x1b[31m"])
def test_what_is_no_file_is_not_waited_for(capsys, place, path):
    os.mkfifo(place.parent / "pipe")
    given = place.parent / path if path == "pipe" else path
    refused(capsys, "compare", given)
    refused(capsys, "export", "modes", given, "--out", "x.html")


@pytest.mark.parametrize(
    "text",
    [
        "zipf:pages=999999999999999999999999",
        "zipf:seed=" + "9" * 10_000,
        "zipf:" + "a=1," * 10_000,
        "../../../../etc/passwd",
        "zipf:__class__=1",
    ],
)
def test_a_synthetic_program_beyond_all_measure_is_one_line(capsys, place, text):
    refused(capsys, "compare", text)


def packed(data):
    raw = zlib.compress(data, 9)
    body = base64.urlsafe_b64encode(zlib.crc32(raw).to_bytes(CHECK, "big") + raw)
    return f"{HEAD}.balloon.{body.decode().rstrip('=')}"


@pytest.mark.parametrize(
    "share",
    [
        packed(bytes(LARGEST * 50)),
        packed(b"[" * 50_000),
        packed(b'{"a":' * 20 + b"1" + b"}" * 20),
        packed(b"1" * 5000),
        packed(json.dumps({"did": [["setmem", 8192]] * 10}).encode()),
        packed(json.dumps({"did": [["__init__"]], "language": "en"}).encode()),
        "kvmlab1.balloon." + "A" * 100_000,
        "kvmlab1.../../etc/passwd.AAAA",
    ],
    ids=range(8),
)
def test_a_share_string_that_is_none_is_one_line(capsys, place, share):
    refused(capsys, "export", "balloon", "--share", share, "--out", place / "x.html")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "held",
    [DEEP + b"\n", b'{"kvmlab_sweep": 1, "x": ' + DEEP + b"\n", b"\x80\x04.\n", b"{}\n" * 1000],
    ids=["deep", "deep inside", "pickle", "empty objects"],
)
def test_a_journal_that_is_none_is_one_line_and_stays_as_it_is(capsys, tmp_path, place, held):
    path = tmp_path / "journal"
    path.write_bytes(held)
    refused(capsys, "sweep", "ls", "--limit", "50", "--mmu", "native", "--journal", path)
    assert path.read_bytes() == held


@pytest.mark.parametrize("journal", ["/dev/null", "/dev/zero", "."])
def test_a_device_is_no_journal(capsys, place, journal):
    given = ["ls", "--limit", "50", "--mmu", "native", "--journal", journal]
    refused(capsys, "sweep", *given)


@pytest.mark.parametrize("held", [DEEP, b'{"format": "kvmlab-progress", "answers": ' + DEEP])
def test_progress_nested_without_end_is_refused_and_stays(tmp_path, held):
    path = tmp_path / "kvmlab-progress.json"
    path.write_bytes(held)
    with pytest.raises(BadProgress, match="is no JSON"):
        Progress(path)
    assert path.read_bytes() == held


def test_progress_has_a_largest_size(tmp_path):
    path = tmp_path / "kvmlab-progress.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole that takes no room on the disk
    with pytest.raises(BadProgress, match="more than 33,554,432 bytes"):
        Progress(path)


def test_a_command_of_the_monitor_nested_without_end_is_an_error_of_the_monitor():
    with pytest.raises(QmpError, match="nested too deeply"):
        _parse(DEEP.decode())


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "", "0", "\x1b[31m"])
def test_an_app_is_one_of_the_labs_and_notebooks_that_there_are(capsys, place, name):
    assert "there is no lab or notebook" in refused(capsys, "app", name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["walk", "--gva", "f" * 10_000],
        ["walk", "--cost", "exit=" + "9" * 10_000],
        ["walk", "--costs", "../../etc/passwd"],
        ["quiz", "-s", "9" * 10_000],
        ["quiz", "-n", "9" * 18],
        ["quiz", "--topic", "../x"],
        ["compare", "ls", "--limit", "9" * 10_000],
        ["crossover", "--pages", "9" * 18],
        ["sweep", "ls", "--tlb", "9999999999x9999999999"],
        ["export", "walk", "--out", "no/../../x.exe"],
    ],
    ids=lambda one: " ".join(one)[:32],
)
def test_values_beyond_all_measure_are_one_line(capsys, place, arguments):
    refused(capsys, *arguments)
    assert list(place.iterdir()) == []

"""``kvmlab capture``: what is missing is one line; with QEMU it makes a capture that holds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvmlab import cli
from kvmlab.cli._output import written
from kvmlab.workloads import live_guest
from kvmlab.workloads.live_guest import asked, initramfs, mappings_of, tables_below, tooling


def run(capsys, *arguments):
    status = cli.main(["capture", *arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "-o/--output"),
        (["-o", "{}/new", "--levels", "3"], "invalid choice: 3"),
        (["-o", "{}/new", "--memory", "2T"], "2,199,023,255,552 bytes is not captured; write 64M"),
        (["-o", "{}/new", "--memory", "much"], "'much' is no size"),
        (["-o", "{}/there"], "there is there already; --force replaces it"),
        (["-o", "{}"], "is a directory"),
        (["-o", "{}/none/new"], "none is no folder"),
        (["-o", "{}/new", "--kernel", "{}/k"], "is not installed; on Debian: apt install qemu-sys"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_and_no_file(
    capsys, tmp_path, monkeypatch, arguments, complaint
):
    monkeypatch.setattr(live_guest, "QEMU", "qemu-that-is-not-there")
    (tmp_path / "there").write_text("mine")
    for name in ("k", "busybox"):
        (tmp_path / name).write_text("")
    given = [one.format(tmp_path) for one in arguments]
    before = sorted(tmp_path.iterdir())
    status, out, err = run(
        capsys, *given, *(["--busybox", str(tmp_path / "busybox")] * bool(given))
    )
    assert (status, out) == (2, "")
    assert complaint in err
    assert [line for line in err.splitlines() if "booting" not in line][1:] == []
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there").read_text() == "mine"


def test_without_a_kernel_or_a_busybox_their_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="apt install linux-image-cloud-amd64"):
        tooling(folder=tmp_path)
    with pytest.raises(ValueError, match="apt install busybox-static"):
        tooling(kernel=tmp_path / "k", folder=tmp_path)
    (tmp_path / "vmlinuz-1").touch()
    assert tooling(busybox=tmp_path / "b", folder=tmp_path) == (
        tmp_path / "vmlinuz-1",
        tmp_path / "b",
    )


@pytest.mark.skipif(not shutil.which("cpio"), reason="cpio is not installed")
def test_the_root_file_system_is_what_cpio_unpacks(tmp_path):
    subprocess.run(
        ["cpio", "-id", "--no-absolute-filenames", "-f", "dev/*"],
        input=initramfs(b"a busybox"), cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    assert (tmp_path / "bin" / "busybox").read_bytes() == b"a busybox"
    assert (tmp_path / "init").read_text().startswith("#!/bin/busybox sh\n")
    assert os.access(tmp_path / "init", os.X_OK)


def test_every_table_below_a_root_is_found_once_at_its_level():
    memory = bytearray(0x6000)
    entries = {0x1000: 0x2003, 0x1FF8: 0x2003, 0x2000: 0x3003, 0x3008: 0x83, 0x3010: 0x4003}
    entries |= {0x3018: 0xFEE0_0003, 0x4000: 0x5003}  # one beyond the memory; one of data
    for address, entry in entries.items():
        memory[address : address + 8] = entry.to_bytes(8, "little")
    assert tables_below(bytes(memory), 0x1000, 4) == {0x1000: 4, 0x2000: 3, 0x3000: 2, 0x4000: 1}


def test_addresses_are_asked_about_in_every_range_and_where_nothing_is():
    tlb = "".join(f"{page:016x}: 0000000000001000 --------W\n" for page in (0x1000, 0x2000, 0x9000))
    chosen = asked(tlb, 1)
    assert {0x1, 0x9} <= {one >> 12 for one in chosen}
    assert any(one >> 12 not in (1, 2, 9) for one in chosen)
    assert chosen == asked(tlb, 1)
    assert all(0 <= one < 1 << 64 for one in chosen)


def test_a_process_is_known_by_the_stack_that_its_cpu_has():
    said = (
        "boot\nKVMLAB-MAPS\n1000-2000 rw-p [stack]\nName:\ta\nKVMLAB-MAPS\n8000-9000 rw-p [stack]\n"
    )
    assert mappings_of(said, 0x1FFF).endswith("Name:\ta\n")
    assert mappings_of(said, 0x8000).startswith("8000")
    with pytest.raises(ValueError, match="no process told of a stack at 0x2000"):
        mappings_of(said, 0x2000)


def test_a_file_is_there_only_when_it_is_whole(tmp_path):
    def half():
        with written(tmp_path / "new") as path:
            path.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(tmp_path.iterdir()) == []
    with written(tmp_path / "new") as path:
        path.write_text("whole")
        assert not (tmp_path / "new").exists()
    assert [one.name for one in tmp_path.iterdir()] == ["new"]
    with written(tmp_path / "new", force=True) as path:
        path.write_text("again")
    assert (tmp_path / "new").read_text() == "again"


def missing():
    """Why no guest can be captured here, or None."""
    if not shutil.which(live_guest.QEMU):
        return f"{live_guest.QEMU} is not installed"
    try:
        tooling()
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.long
@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_guest_is_captured_and_every_answer_of_qemu_s_is_reproduced(capsys, tmp_path, levels):
    path = tmp_path / "guest.json.gz"
    status, out, err = run(capsys, "-o", str(path), "--levels", str(levels))
    assert (status, out) == (0, ""), err
    tests = Path(__file__).parents[1] / "test_captures.py"
    held = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tests), "--captured", str(path)],
        cwd=tests.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert held.returncode == 0, held.stdout[-2000:]

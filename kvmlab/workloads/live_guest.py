"""A small Linux guest under a real QEMU, stopped and taken down byte by byte.

    with booted(kernel, busybox, levels=4, memory=128 << 20) as guest:
        text = take(guest, description)      # JSON, as `capture` reads it

QEMU runs without KVM (TCG), so any machine will do.  The guest is the host's own kernel with a
busybox as its only program: two shells tell their mappings on the serial line and then keep two
CPUs busy in user mode, where they are stopped.  Everything else is asked of QEMU's monitor.
"""

import base64
import contextlib
import gzip
import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.base.errors import BadChoice, TraceError

QEMU = "qemu-system-x86_64"
PATIENCE = 120  # seconds for a boot without KVM on a busy machine
ATTEMPTS = 200  # to stop the guest in user mode
ANSWERS = 896  # addresses that the monitor is asked to translate
READY = "KVMLAB-READY"
_FRAME = 0x000F_FFFF_FFFF_F000
_MAPS = "KVMLAB-MAPS\n"
_TELL = "echo KVMLAB-MAPS; /bin/busybox cat /proc/$$/maps /proc/$$/status"
_INIT = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc
/bin/busybox mount -t proc proc /proc
{_TELL}
/bin/busybox sh -c '{_TELL}; echo {READY}; while :; do :; done' &
while :; do :; done
"""


@dataclass
class Guest:
    """A running QEMU: its monitor, where it may write files, and what the guest has said."""

    monitor: "Monitor"
    folder: Path
    memory: int

    def said(self) -> str:
        """What came over the serial line so far."""
        return (self.folder / "serial").read_text("utf-8", "replace").replace("\r", "")


class Monitor:
    """A client of QMP (docs/interop/qmp-spec in QEMU's sources)."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._lines.readline()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401  JSON is what it is
        """What ``command`` returns; raises `TraceError` with QEMU's words where it fails."""
        question = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(question).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline() or '{"error": {"desc": "QEMU ended"}}')
            if "error" in answer:
                raise TraceError(f"QEMU refuses {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()

    def ask(self, line: str, cpu: int = 0) -> str:
        """What the monitor for people prints for ``line``, as ``cpu`` sees it."""
        arguments = {"command-line": line, "cpu-index": cpu}
        text: str = self.execute("human-monitor-command", **arguments)
        return text.replace("\r", "")


@contextlib.contextmanager
def booted(kernel: Path, busybox: Path, *, levels: int, memory: int) -> Iterator[Guest]:
    """A guest that has booted and keeps busy; it ends with the block.

    Raises `BadChoice` without QEMU or one of the files, and `TraceError` if it does not boot.
    """
    qemu = shutil.which(QEMU)
    if qemu is None:
        raise BadChoice(f"{QEMU} is not installed; on Debian: apt install qemu-system-x86")
    for path in (kernel, busybox):
        if not os.access(path, os.R_OK):
            raise BadChoice(f"{path} is not there, or may not be read")
    with tempfile.TemporaryDirectory(prefix="kvmlab-") as name:
        folder = Path(name)
        (folder / "initrd").write_bytes(gzip.compress(initramfs(busybox.read_bytes())))
        append = "console=ttyS0 nokaslr panic=-1 quiet" + ("" if levels == 5 else " no5lvl")
        command = [
            *(qemu, "-accel", "tcg", "-cpu", "max", "-m", f"{memory >> 20}M", "-smp", "2"),
            *(
                "-display",
                "none",
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-kernel",
                str(kernel),
            ),
            *("-initrd", str(folder / "initrd"), "-append", append),
            *("-serial", f"file:{folder / 'serial'}"),
            *("-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"),
        ]
        with (folder / "errors").open("wb") as errors:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)  # noqa: S603
            try:
                _await(process, folder)
                with contextlib.closing(Monitor(folder / "qmp")) as monitor:
                    yield Guest(monitor, folder, memory)
            finally:
                process.kill()
                process.wait()


def _await(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Wait until the guest says that it is ready."""
    end = time.monotonic() + PATIENCE
    serial = folder / "serial"
    while time.monotonic() < end:
        if serial.exists() and READY.encode() in serial.read_bytes():
            return
        if process.poll() is not None:
            said = (folder / "errors").read_text("utf-8", "replace").strip().split("\n")[-1]
            raise TraceError(f"QEMU ended with status {process.returncode}: {said[:200]}")
        time.sleep(0.2)
    raise TraceError(f"the guest was not ready within {PATIENCE} seconds")


def initramfs(busybox: bytes) -> bytes:
    """A root file system of a busybox and an /init for it: a cpio archive of the kind ``newc``.

    Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    files = (
        ("dev", 0o40755, (0, 0), b""),
        ("dev/console", 0o20600, (5, 1), b""),
        ("dev/null", 0o20666, (1, 3), b""),  # what a shell gives its background jobs
        ("bin", 0o40755, (0, 0), b""),
        ("bin/busybox", 0o100755, (0, 0), busybox),
        ("init", 0o100755, (0, 0), _INIT.encode()),
        ("TRAILER!!!", 0, (0, 0), b""),
    )
    out = bytearray()
    for number, (name, mode, device, data) in enumerate(files, 1):
        numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % one for one in numbers) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


# -- taking it down --------------------------------------------------------------------------


def take(guest: Guest, description: str, seed: int = 1) -> dict[str, Any]:
    """The guest as a capture (see `capture`): tables, registers, mappings, and QEMU's answers."""
    registers, others = _stop(guest.monitor)
    dump = guest.folder / "memory"
    guest.monitor.execute("pmemsave", val=0, size=guest.memory, filename=str(dump))
    memory = dump.read_bytes()
    levels = 5 if registers["CR4"] >> 12 & 1 else 4
    tables: dict[int, int] = {}
    for cpu in (registers, others):
        tables |= tables_below(memory, cpu["CR3"] & _FRAME, levels)
    pages = b"".join(memory[gpa : gpa + PAGE_SIZE] for gpa in tables)
    tlb = guest.monitor.ask("info tlb")
    second = mappings_of(guest.said(), others["RSP"])
    return {
        "guest": description,
        "levels": levels,
        "regs": {name: hex(value) for name, value in registers.items()},
        "tables": {hex(gpa): level for gpa, level in tables.items()},
        "proc": mappings_of(guest.said(), registers["RSP"]),
        "processes": [{"cr3": hex(others["CR3"]), "proc": second}],
        "gva2gpa": _answers(guest.monitor, tlb, seed),
        "pages_zlib_b64": base64.b64encode(zlib.compress(pages, 9)).decode(),
        "info_tlb": tlb,
        # With five levels QEMU 7.2 takes long over `info mem` and then prints nothing.
        "info_mem": guest.monitor.ask("info mem") if levels == 4 else "",
    }


def _answers(monitor: Monitor, tlb: str, seed: int) -> list[list[str | None]]:
    """Addresses, each with the guest-physical one that the monitor finds for it, or None."""
    answers = []
    for gva in asked(tlb, seed):
        said = re.fullmatch(r"gpa: 0x([0-9a-f]+)\s*", monitor.ask(f"gva2gpa {gva:#x}"))
        answers.append([hex(gva), f"0x{said[1]}" if said else None])
    return answers


def _stop(monitor: Monitor) -> tuple[dict[str, int], dict[str, int]]:
    """Stop both CPUs in user mode, so that each has the tables of a process of its own in CR3."""
    for _ in range(ATTEMPTS):
        monitor.execute("stop")
        first, second = (_registers(monitor, cpu) for cpu in (0, 1))
        if first.get("CPL") == second.get("CPL") == 3 and first["CR3"] != second["CR3"]:
            return first, second
        monitor.execute("cont")
        time.sleep(0.05)
    raise TraceError(f"the guest was not in user mode in any of {ATTEMPTS} moments")


def _registers(monitor: Monitor, cpu: int) -> dict[str, int]:
    text = monitor.ask("info registers", cpu)
    found = re.findall(r"\b(CR[0234]|EFER|RIP|RSP|CPL)=\s*([0-9a-f]+)", text)
    return {name: int(value, 16) for name, value in found}


def mappings_of(said: str, stack: int) -> str:
    """What the guest ``said`` of the process whose stack holds the address ``stack``."""
    parts = [part.partition(READY)[0] for part in said.split(_MAPS)[1:]]
    for part in parts:
        found = re.search(r"^([0-9a-f]+)-([0-9a-f]+) .*\[stack\]$", part, re.MULTILINE)
        if found and int(found[1], 16) <= stack < int(found[2], 16):
            return part
    raise TraceError(f"no process told of a stack at {stack:#x}")


def tables_below(memory: bytes, root: int, levels: int) -> dict[int, int]:
    """Every table of the tree at ``root`` with its level, each once, by address."""
    found = {root: levels}
    pending = [root]
    while pending:
        gpa = pending.pop()
        level = found[gpa]
        for at in range(gpa, gpa + PAGE_SIZE, 8) if level > 1 else ():
            entry = int.from_bytes(memory[at : at + 8], "little")
            below = entry & _FRAME
            if entry & 1 and not entry & 1 << 7 and below not in found and below < len(memory):
                found[below] = level - 1
                pending.append(below)
    return dict(sorted(found.items()))


def asked(tlb: str, seed: int) -> list[int]:
    """Addresses to ask about: in every range of pages, at random in them, and where nothing is."""
    choose = random.Random(seed)
    pages = [int(line.partition(":")[0], 16) for line in tlb.split("\n") if ":" in line]
    edges = [b for a, b in zip([0, *pages], pages, strict=False) if b - a != PAGE_SIZE]
    chosen = {*edges, *choose.sample(pages, min(len(pages), ANSWERS // 2))}
    inside = [page + choose.randrange(PAGE_SIZE) for page in sorted(chosen)]
    around = [page + choose.choice((-1, 1)) * (1 << choose.randrange(12, 46)) for page in inside]
    return (inside + [one & (1 << 64) - 1 for one in around])[:ANSWERS]


def tooling(
    kernel: Path | None = None, busybox: Path | None = None, folder: Path = Path("/boot")
) -> tuple[Path, Path]:
    """A kernel and a busybox, where none are given this machine's.  Raises `BadChoice`."""
    kernels = sorted(folder.glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    shell = shutil.which("busybox")
    if kernel is None and not kernels:
        raise BadChoice("no kernel is in /boot; on Debian: apt install linux-image-cloud-amd64")
    if busybox is None and shell is None:
        raise BadChoice("busybox is not installed; on Debian: apt install busybox-static")
    return kernel or kernels[-1], busybox or Path(str(shell))

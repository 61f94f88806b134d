"""``kvmlab capture``: boot a small Linux under QEMU, stop it, and keep its page tables."""

import argparse
import sys
from pathlib import Path

from kvmlab.cli import argument
from kvmlab.cli._output import add_output, written

HELP = "Boot a small Linux under QEMU; record its page tables, registers and QEMU's answers."
EXAMPLES = (
    "kvmlab capture -o mine.json.gz",
    "kvmlab capture --levels 5 --memory 256M -o five.json.gz",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, and which guest."""
    from kvmlab.base.addresses import parse_size

    add_output(parser, "the capture, as JSON packed with gzip")
    parser.add_argument(
        "--levels", type=int, choices=(4, 5), default=4, help="of its page tables (default: 4)"
    )
    parser.add_argument(
        "--memory", type=argument(parse_size), default="128M", metavar="SIZE",
        help="of the guest, 64M to 1G (default: 128M)",
    )  # fmt: skip
    parser.add_argument(
        "--kernel", type=Path, metavar="FILE", help="a bzImage (default: the newest in /boot)"
    )
    parser.add_argument(
        "--busybox", type=Path, metavar="FILE", help="a static busybox (default: this machine's)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: the file and its counts")


def run(args: argparse.Namespace) -> int:
    """Boot, stop, take down; then the file is there, or nothing is."""
    import gzip
    import json

    from kvmlab.base.errors import BadSize
    from kvmlab.workloads import live_guest

    if not 64 << 20 <= args.memory <= 1 << 30 or args.memory % (1 << 20):
        raise BadSize(f"a guest of {args.memory:,} bytes is not captured; write 64M to 1G")
    kernel, busybox = live_guest.tooling(args.kernel, args.busybox)
    with written(args.output, force=args.force) as path:
        print("kvmlab: booting under QEMU, without KVM: some seconds", file=sys.stderr)
        with live_guest.booted(kernel, busybox, levels=args.levels, memory=args.memory) as guest:
            found = live_guest.take(guest, f"{kernel.name.removeprefix('vmlinuz-')}, QEMU TCG")
        path.write_bytes(gzip.compress(json.dumps(found).encode(), 9, mtime=0))
    tables, answers = len(found["tables"]), len(found["gva2gpa"])
    if args.json:
        told = {"file": str(args.output), "tables": tables, "answers": answers}
        print(json.dumps({**told, "bytes": args.output.stat().st_size}, indent=2))
    else:
        print(f"kvmlab: {args.output}: {tables} page tables, {answers} answers", file=sys.stderr)
    return 0

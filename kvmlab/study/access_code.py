"""The lines of Python that do what `access.first_access` does, for whoever wants to go on alone."""

from kvmlab.base.addresses import PAGE_SIZE, parse_size
from kvmlab.study.access import CACHES, LARGE, SMALL, Request, is_large, is_mappable

HEAD = """from kvmlab.base.errors import SegmentationFault
from kvmlab.hardware.geometries import with_walk_caches
from kvmlab.hardware.records import Kind
from kvmlab.hardware.tlb import UNIFIED
from kvmlab.machine import Machine

records = []"""

ACCESS = """
def access(kind):
    try:
        {access}
    except SegmentationFault:
        return False
    return True
"""

WALK = """
machine.cpu.flush_tlb()
start = len(records)
if access(Kind.READ):  # the first touch
    machine.cpu.flush_tlb(){warm}
    start = len(records)
    access(Kind.{kind})
walked = records[start:]  # what the lab shows"""


def access_code(request: Request) -> str:
    """Python that leaves in ``walked`` the very records that `first_access` returns."""
    lines = [HEAD, _machine(request)]
    lines += _mapping(request) if is_mappable(request) else []
    verb = "guest.touch" if request.user else "cpu.access"
    access = f"machine.{verb}({request.gva:#x}, kind)"
    lines += ["", ACCESS.format(access=access)]
    return "\n".join([*lines, WALK.format(warm=_warm(request), kind=request.kind.name)])


def own_code(request: Request) -> str:
    """The same for a ``machine`` that is there already, as `cold_access` does it."""
    verb = "guest.touch" if request.user else "cpu.access"
    access = f"machine.{verb}({request.gva:#x}, Kind.{request.kind.name})"
    again = [access] if request.before == "page" else []
    lines = ["from kvmlab.hardware.records import Kind", "", access, "machine.cpu.flush_tlb()"]
    return "\n".join([*lines, *again, access])


def _machine(request: Request) -> str:
    guest, host = LARGE if is_large(request) else SMALL
    return f"""machine = Machine(
    "{request.mmu}",
    guest_memory="{guest}",
    host_memory="{host}",
    guest_levels={request.guest_levels},
    host_levels={request.host_levels},
    guest_page="{request.guest_page}",
    host_page="{request.host_page}",
    geometry=with_walk_caches(UNIFIED, "{CACHES[request.caches]}"),
    tap=records.append,
)
process = machine.guest.spawn("demo")
machine.guest.switch(process)"""


def _mapping(request: Request) -> list[str]:
    """The page itself, unless it is not to be mapped, and the one beside it."""
    lines = []
    if request.mapping != "none":
        size, rights = parse_size(request.guest_page), request.mapping == "all"
        place = f"{request.gva // size * size:#x}, {size:#x}"
        given = f'write={rights}, execute={rights}, page="{request.guest_page}"'
        lines.append(f"process.mmap({place}, {given})")
    lines.append(f"process.mmap({request.neighbour:#x}, {PAGE_SIZE:#x})")
    lines.append(f"machine.guest.touch({request.neighbour:#x}, Kind.WRITE)")
    return lines


def _warm(request: Request) -> str:
    if request.before == "page":
        return f"\n    access(Kind.{request.kind.name})"
    if request.before == "neighbour" and is_mappable(request):
        return f"\n    machine.guest.touch({request.neighbour:#x}, Kind.READ)"
    return ""

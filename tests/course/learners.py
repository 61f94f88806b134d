"""What learners hand in: the solutions, and functions with the mistakes that are common."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOLUTIONS = ROOT / "tests" / "solutions"
FUNCTIONS = {"walker": "walk", "shadow": "fill", "policy": "policy", "sharer": "share"}


def solution(task):
    spec = spec_from_file_location(f"solution_{task}", SOLUTIONS / f"{task}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, FUNCTIONS[task])


def without_offset(read, root, gva):
    found = solution("walker")(read, root, gva)
    return None if found is None else found & ~0xFFF


def never_large(read, root, gva):
    return solution("walker")(lambda at: read(at) & ~0x80, root, gva)


def pat_in_address(read, root, gva):
    table = root
    for shift in (39, 30, 21, 12):
        entry = read(table + (gva >> shift & 511) * 8)
        if not entry & 1:
            return None
        if shift == 12 or entry & 0x80:
            return entry & 0x000F_FFFF_FFFF_F000 | gva & (1 << shift) - 1
        table = entry & 0x000F_FFFF_FFFF_F000
    return None


def faults_as_zero(read, root, gva):
    return solution("walker")(read, root, gva) or 0


def guest_frame(pte, home, tables):
    return solution("shadow")(pte, lambda gpa: home(gpa) and gpa, tables)


def tables_writable(pte, home, tables):
    return solution("shadow")(pte, home, ())


def dirty_forgotten(pte, home, tables):
    return solution("shadow")(pte | 0x40, home, tables)


def takes_used_memory(host, guests):
    return {one.name: one.current // 2 for one in guests}


def takes_nothing(host, guests):
    return {}


def takes_always(host, guests):
    return {one.name: one.current - one.unused for one in guests if one.used >= one.minimum}


def by_first_byte(pages):
    first = {}
    return [first.setdefault(page[:1], number) for number, page in enumerate(pages)]


def shares_nothing(pages):
    return list(range(len(pages)))


MISTAKES = {
    "walker": (without_offset, never_large, pat_in_address, faults_as_zero),
    "shadow": (guest_frame, tables_writable, dirty_forgotten),
    "policy": (takes_used_memory, takes_nothing, takes_always),
    "sharer": (by_first_byte, shares_nothing),
}

"""Questions on memslots: GPA to HVA, holes, and what a large leaf needs."""

from kvmlab.base.addresses import size_text
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Number, Problem, Said, Words, kind, picked
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES, Memslot, Memslots

_PAGE = 4096


def _slots(draw: Draw, count: int) -> Memslots:
    """Slots with holes between them, in drawn places of QEMU's address space."""
    slots, gpa = Memslots(), draw.below(4) << 20
    for number in range(count):
        size = draw.between(1, 64) << 20
        hva = 0x7F00_0000_0000 + (number << 36) + (draw.below(1 << 20) << 12)
        slots.set_region(number, gpa, size, hva)
        gpa += size + (draw.between(1, 64) << 20)
    return slots


def _listed(slots: Memslots) -> tuple[Words, ...]:
    return tuple(
        Said(
            "course.slot.line",
            {
                "slot": one.slot,
                "gpa": f"{one.gpa:#x}",
                "size": size_text(one.size),
                "hva": f"{one.hva:#x}",
            },
        )
        for one in slots
    )


@kind("slot.hva")
def hva(draw: Draw, difficulty: int) -> Problem:
    """The HVA of a GPA."""
    slots = _slots(draw, difficulty + 1)
    home = draw.choose(list(slots)[1:])
    gpa = home.gpa + draw.below(home.size >> 3) * 8
    found = slots.find(gpa)
    assert found is not None  # noqa: S101  it was drawn from a slot
    others = [one for one in slots if one is not found]
    return Problem(
        Number(base=16),
        found.hva_of(gpa),
        {"gpa": f"{gpa:#x}"},
        {
            "base-not-subtracted": found.hva + gpa,
            "wrong-slot": others[0].hva_of(gpa),
            "gpa-is-hva": gpa,
            "offset-only": found.hva + gpa % _PAGE,
        },
        _listed(slots),
        (
            Said(
                "course.told.slot",
                {
                    "slot": found.slot,
                    "gpa": f"{gpa:#x}",
                    "base": f"{found.gpa:#x}",
                    "into": f"{gpa - found.gpa:#x}",
                    "hva": f"{found.hva_of(gpa):#x}",
                },
            ),
        ),
    )


@kind("slot.which")
def which(draw: Draw, difficulty: int) -> Problem:
    """Which slot a GPA is in, or none."""
    slots = _slots(draw, difficulty + 1)
    one = draw.choose(list(slots))
    end = one.gpa + one.size
    gpa = draw.choose((one.gpa, end - 8, end, end, end + 0x1000, one.gpa + one.size // 2))
    found = slots.find(gpa)
    options: dict[str, Words] = {
        f"slot {slot.slot}": Said("course.slot", {"slot": slot.slot}) for slot in slots
    }
    options["hole"] = Said("course.slot.hole")
    answer = f"slot {found.slot}" if found else "hole"
    mistaken = {
        "end-included": f"slot {one.slot}" if gpa == end else answer,
        "nearest-slot": f"slot {one.slot}",
        "start-excluded": "hole" if gpa == one.gpa else answer,
    }
    told = Said(
        "course.told.range", {"slot": one.slot, "first": f"{one.gpa:#x}", "last": f"{end - 1:#x}"}
    )
    return Problem(
        picked(draw, options), answer, {"gpa": f"{gpa:#x}"}, mistaken, _listed(slots), (told,)
    )


def _largest(slot: Memslot, gpa: int) -> str:
    """The largest leaf that KVM may use there."""
    large = [size for shift, size in ((30, "1G"), (21, "2M")) if slot.allows_large(gpa, shift)]
    return large[0] if large else "4K"


@kind("slot.largest")
def largest(draw: Draw, difficulty: int) -> Problem:
    """The largest EPT leaf for a GPA: congruence, the slot's ends, dirty logging."""
    low = draw.below(3) << 30
    gpa = low + draw.choose((0, 0x20_0000, 0x1000, 0x10_0000))
    apart = draw.choose((0, 0, 0x1000, 0x20_0000, 0x10_0000))
    size = draw.choose((1 << 30, 3 << 30, 2 << 30, 0x10_0000))
    flags = LOG_DIRTY_PAGES if difficulty == 3 and draw.chance(30) else 0
    hva = 0x7E00_0000_0000 + gpa + apart
    slots = Memslots()
    slots.set_region(0, gpa, size, hva, flags)
    slot = slots.get(0)
    assert slot is not None  # noqa: S101  it was made just now
    asked = gpa + draw.below(size >> 12) * _PAGE
    answer = _largest(slot, asked)
    unlogged = Memslot(0, gpa, size, hva)
    endless = Memslot(0, 0, 1 << 40, hva - gpa, flags)
    options: dict[str, Words] = {"4K": "4K", "2M": "2M", "1G": "1G"}
    return Problem(
        picked(draw, options),
        answer,
        {"gpa": f"{asked:#x}", "log": Said("course.log.on" if flags else "course.log.off")},
        {
            "congruence-forgotten": _largest(Memslot(0, gpa, size, gpa, flags), asked),
            "slot-ends-forgotten": _largest(endless, asked),
            "logging-forgotten": _largest(unlogged, asked),
            "as-large-as-fits": "1G" if size >= 1 << 30 else "2M",
        },
        _listed(slots),
        (
            Said(
                "course.told.congruence",
                {
                    "gpa": f"{gpa:#x}",
                    "hva": f"{hva:#x}",
                    "apart": f"{(gpa ^ hva) & (1 << 30) - 1:#x}",
                },
            ),
        ),
    )


KINDS = (hva, which, largest)

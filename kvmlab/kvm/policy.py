"""How a shadow MMU keeps its tables true to the guest's: one switch for each of KVM's ideas.

The presets are stations of KVM's history.  What a demand fault of the guest costs tells them
apart: three exits, two, one, and again two where leaf tables may go out of sync.
"""

from dataclasses import dataclass

from kvmlab.base.errors import BadChoice


@dataclass(frozen=True, slots=True)
class Policy:
    """One way of shadowing."""

    name: str
    summary: str  # what a learner should know about it, for the screen
    rebuild: bool = False  # a trapped write of a PTE builds the new shadow entry at once
    bypass: bool = False  # a fault on an entry that the guest left absent exits no more
    unsync: bool = False  # a leaf table may be written freely until INVLPG or a load of CR3
    prefetch: int = 0  # a fill tries the aligned group of so many entries; 0: only its own
    previous_roots: int = 0  # roots kept beside the current one, KVM_MMU_NUM_PREV_ROOTS
    mmio_caching: bool = False  # an entry remembers that nobody answers there (Linux 3.1)
    recycle: bool = False  # the oldest shadow pages go when the budget of the VM is used up
    # Linux 6.1: make_spte() jumps over the D bit of an entry that is writable already.
    skips_dirty: bool = False


NAIVE = Policy("naive", "every write to a guest table traps (KVM 2007)")
"""Three exits a demand fault, as Linux commit 0028425f647b (2007) tells."""

UPDATE = Policy(
    "update", "a trapped write builds the shadow entry at once (KVM 2007, improved)", rebuild=True
)
"""Two: the same commit saves the fill, since the store itself says what it would find."""

BYPASS = Policy(
    "bypass",
    "faults on absent entries go straight to the guest (KVM 2007, Intel)",
    rebuild=True,
    bypass=True,
)
"""One: Linux commit c7addb902054 marks what the guest left absent; only the store exits."""

TODAY = Policy(
    "today",
    "leaf tables go out of sync until INVLPG or a load of CR3 (Linux 6.1)",
    unsync=True,
    prefetch=8,
    previous_roots=3,
    mmio_caching=True,
    recycle=True,
    skips_dirty=True,
)
"""Two: the reflected fault and the fill; the store of the PTE is the guest's own affair."""

POLICIES = (NAIVE, UPDATE, BYPASS, TODAY)


def policy_named(name: str) -> Policy:
    """The preset called ``name``; raises `BadChoice` that lists the names there are."""
    for one in POLICIES:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in POLICIES)
    raise BadChoice(f"there is no shadow policy {name!r}; choose one of {names}")

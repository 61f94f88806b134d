"""A solution of the task ``shadow``."""

FRAME = 0x000F_FFFF_FFFF_F000


def fill(pte, home, tables):
    """The shadow entry of a guest's PTE."""
    host = home(pte & FRAME)
    if not pte & 1 or host is None:
        return 0
    spte = host | 1 | pte & (4 | 1 << 63)
    clean = not pte & 0x40
    if pte & 2 and not clean and pte & FRAME not in tables:
        spte |= 2
    return spte

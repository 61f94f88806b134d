"""A solution of the task ``walker``."""


def walk(read, root, gva):
    """Follow 4-level page tables; None where an entry is absent."""
    table = root
    for shift in (39, 30, 21, 12):
        entry = read(table + (gva >> shift & 511) * 8)
        if not entry & 1:
            return None
        size = 1 << shift
        if shift == 12 or (entry & 0x80 and shift < 39):
            return (entry & 0x000F_FFFF_FFFF_F000 & ~(size - 1)) | gva & size - 1
        table = entry & 0x000F_FFFF_FFFF_F000
    return None

"""The budget of shadow pages, and who goes when it is used up.

Linux, arch/x86/kvm/mmu/mmu.c: kvm_arch_commit_memory_region() sets it, make_mmu_pages_available()
and kvm_mmu_zap_oldest_mmu_pages() keep it.
"""

from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.kvm.memslots import Memslots
from kvmlab.kvm.shadow_pages import ShadowPages

LEAST_PAGES = 64  # KVM_MIN_ALLOC_MMU_PAGES
_ENOUGH_FREE, _REFILL = 5, 25  # KVM_MIN_FREE_MMU_PAGES, KVM_REFILL_PAGES
_FRAMES_PER_PAGE = 50  # KVM_MEMSLOT_PAGES_TO_MMU_PAGES_RATIO


def default_budget(slots: Memslots) -> int:
    """A shadow page for every 50 frames of guest memory, and at least 64."""
    frames = sum(one.size for one in slots) >> PAGE_SHIFT
    return max(frames // _FRAMES_PER_PAGE, LEAST_PAGES)


def make_room(pages: ShadowPages, budget: int) -> None:
    """Throw the oldest shadow pages away, roots in use excepted, if fewer than 5 are free."""
    if budget - len(pages) >= _ENOUGH_FREE:
        return
    target, in_use = budget - _REFILL, pages.in_use()
    for page in pages.oldest_first():
        if len(pages) <= target:
            return
        if page not in in_use and pages.find(page.gfn, page.role) is page:
            pages.zap(page, "recycled")

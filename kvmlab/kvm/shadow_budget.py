"""Who goes when the budget of shadow pages, which is the VM's, is used up.

Linux, arch/x86/kvm/mmu/mmu.c: make_mmu_pages_available(), kvm_mmu_zap_oldest_mmu_pages().
"""

from kvmlab.kvm.shadow_pages import ShadowPages

_ENOUGH_FREE, _REFILL = 5, 25  # KVM_MIN_FREE_MMU_PAGES, KVM_REFILL_PAGES


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

"""Every paging mode of a guest is shadowed: 32-bit, PAE, none at all, and the ways between."""

import contextlib

import pytest

from kvmlab.hardware.instructions import invlpg, mov_cr0, mov_cr3, mov_cr4, wrmsr_efer
from kvmlab.hardware.processor import (
    CR0_PE,
    CR0_WP,
    CR4_PAE,
    CR4_PSE,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Controls,
)
from kvmlab.hardware.records import GeneralProtection, Kind, Mapped, PageFault
from kvmlab.kvm.policy import TODAY
from kvmlab.kvm.records import FaultHandled, ShadowPageZapped
from kvmlab.kvm.shadow_pages import Slot
from tests.bare_shadow_guest import (
    ALL,
    DATA,
    MEMORY,
    ON,
    OTHER,
    PD,
    PS,
    PT,
    RW,
    TABLE,
    US,
    USER_PAGE,
    Guest,
    P,
    narrow,
    paging_off,
)

# ----- 32-bit guests: quadrants --------------------------------------------------------------


def test_the_root_of_a_32_bit_guest_has_four_shadow_pages_and_a_leaf_table_two():
    guest = narrow()
    assert guest.shadowing(PD >> 12) == [(2, 0), (2, 1), (2, 2), (2, 3)]

    assert guest.reads(0, 4) == DATA
    assert guest.shadowing(PT >> 12) == [(1, 0)]

    assert guest.reads(513 << 12, 4) == OTHER
    assert guest.shadowing(PT >> 12) == [(1, 0), (1, 1)]
    assert guest.vcpu.mmu.table_frames == len(guest.pages) + 1  # and the table of the PDPTEs


def test_what_lies_beside_an_entry_of_the_second_half_is_prefetched_from_there():
    guest = narrow()
    beside = {512: OTHER, 514: DATA, 0: DATA, 2: OTHER}  # those of the first half are a trap
    guest.put({PT + 4 * index: frame | USER_PAGE for index, frame in beside.items()})
    assert guest.reads(513 << 12, 4) == OTHER
    taken = len([one for one in guest.records if isinstance(one, FaultHandled)])
    assert guest.reads(514 << 12, 4) == DATA
    assert len([one for one in guest.records if isinstance(one, FaultHandled)]) == taken


@pytest.mark.parametrize("host_shift, level", [(12, 1), (21, 2)])
def test_a_page_of_4_mib_takes_two_entries_of_2_mib_each_large_if_the_host_backs_it_so(
    host_shift, level
):
    guest = narrow(host_shift=host_shift)
    made = len(guest.made())
    assert guest.reads(5 << 22, 4) == DATA
    assert guest.reads((5 << 22) + (2 << 20), 4) == OTHER
    root = guest.vcpu.mmu._roots.current.page(5 << 22)
    sptes = [guest.vm.ram.load(root.hpa + 8 * index) for index in (10, 11)]
    assert [bool(spte & PS) for spte in sptes] == [level == 2] * 2
    assert [(one.level, one.direct) for one in guest.made()[made:]] == [(1, True)] * 2 * (2 - level)


@pytest.mark.parametrize("policy", ALL)
def test_a_store_to_a_32_bit_pde_drops_both_entries_made_from_it(policy):
    guest = narrow(policy=policy)
    pde = (5 << 22, PD + 4 * 5)
    guest.put({PT + 4 * 100: PD | USER_PAGE})  # the page directory, mapped for the guest
    assert (guest.reads(pde[0], 4), guest.reads(pde[0] + (2 << 20), 4)) == (DATA, OTHER)
    guest.cpu.store((100 << 12) + 4 * 5, 0, 4)
    for gva in (pde[0], pde[0] + (2 << 20)):
        assert guest.reads(gva, 4) == PageFault(gva, 4, Kind.READ, user=True)


def test_a_store_of_8_bytes_spans_two_32_bit_entries_and_one_of_4_does_not():
    def zapped(size, offset):
        guest = narrow()
        guest.put({PT + 4 * 100: PD | USER_PAGE})
        guest.reads(0, 4)
        guest.cpu.store((100 << 12) + offset, 0, size)
        gone = [one for one in guest.records if isinstance(one, ShadowPageZapped)]
        return len([one for one in gone if one.why == "misaligned"])

    assert [zapped(size, 4 * 800) for size in (8, 4, 2, 1)] == [4, 0, 4, 0]
    assert zapped(1, 4 * 800 + 1) == 4


def test_a_guest_of_32_bits_never_learns_that_the_hardware_has_nx_on():
    """Its error codes tell no fetches, under the policy too that lets #PFs go straight to it."""
    for policy in ALL:
        guest = narrow(policy=policy)
        guest.reads(1 << 12, 4)  # the shadow page is there: its entry is marked absent
        guest.cpu.cpl = 3
        with pytest.raises(StopIteration):
            guest.cpu.access(2 << 12, Kind.FETCH)
        assert guest.faults[-1].error_code == 4, policy


# ----- PAE: pointers in registers -----------------------------------------------------------


PDPT = 0x1020  # 32 bytes, not a page
PAE_WORDS = {
    PDPT: PD | P,
    PD: PT | TABLE,
    PT: DATA | USER_PAGE,
    PDPT + 24: 0x5000 | P,
    0x5000: 0x6000 | TABLE,
    0x6000: OTHER | USER_PAGE,
}
PAE_BOOT = {"cr0": ON, "cr3": PDPT, "cr4": CR4_PAE}


def test_the_pointers_of_a_pae_guest_are_those_of_its_last_cr3_load():
    guest = Guest(Controls(**PAE_BOOT), PAE_WORDS)
    top = 3 << 30
    assert (guest.reads(0), guest.reads(top)) == (DATA, OTHER)

    guest.put({PDPT + 24: 0})
    invlpg(guest.cpu, top)
    guest.cpu.flush_tlb()
    assert guest.reads(top) == OTHER  # memory has changed, the registers have not

    mov_cr3(guest.cpu, PDPT)
    assert guest.reads(top) == PageFault(top, 4, Kind.READ, user=True)
    assert guest.reads(0) == DATA


def test_a_bad_pointer_is_a_gp_and_the_old_ones_stay():
    guest = Guest(Controls(**PAE_BOOT), PAE_WORDS)
    guest.put({0x1040: PD | P | RW})
    before = guest.cpu.registers.cr3
    mov_cr3(guest.cpu, 0x1040)
    [fault] = guest.faults
    assert fault == GeneralProtection(0, "PDPTE 0 is 0x2003: a reserved bit is set")
    assert guest.cpu.registers.cr3 == before
    assert guest.reads(0) == DATA

    mov_cr3(guest.cpu, 0x8000_0000)
    assert "in no memslot" in guest.faults[-1].why


def test_a_pae_guest_has_a_shadow_page_for_each_pointer_and_none_for_the_pointers():
    guest = Guest(Controls(**PAE_BOOT), PAE_WORDS)
    assert guest.shadowing(PDPT >> 12) == []
    assert [(one.gfn, one.level) for one in guest.made()] == [(PD >> 12, 2), (5, 2)]
    root = guest.vcpu.mmu._roots.current
    assert [page is not None for page in root.pages] == [True, False, False, True]


def test_two_pae_guests_on_one_cpu_keep_their_own_pointers():
    first = Guest(Controls(**PAE_BOOT), PAE_WORDS)
    second = Guest(Controls(**PAE_BOOT), {**PAE_WORDS, PT: OTHER | USER_PAGE}, cpu=first.cpu)
    second.vcpu.vmcs.vpid = 2
    for _ in range(2):
        for guest, value in ((first, DATA), (second, OTHER)):
            guest.cpu.enter(guest.vcpu.vmcs)
            assert guest.reads(0) == value


# ----- no paging, and the ways between --------------------------------------------------------


@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize("host_shift", [12, 21])
def test_without_paging_an_address_is_guest_physical_and_all_is_allowed(policy, host_shift):
    guest = Guest(paging_off(CR4_SMEP), policy=policy, host_shift=host_shift)
    for cpl in (0, 3):
        assert guest.reads(DATA, cpl=cpl) == DATA
    guest.cpu.store(OTHER + 8, 7)
    assert guest.reads(OTHER + 8) == 7
    guest.cpu.access(DATA, Kind.FETCH)  # as a supervisor, with CR4.SMEP: no paging, no SMEP
    assert guest.faults == []
    levels = {(one.level, one.direct) for one in guest.made()}
    assert levels == ({(2, True)} if host_shift == 21 else {(2, True), (1, True)})
    assert guest.reads(MEMORY) == (1 << 64) - 1  # nobody lives there


@pytest.mark.parametrize("policy", ALL)
def test_a_guest_may_go_through_all_modes_and_back(policy):
    """Its boot: no paging, PAE, long mode; then 32-bit paging over the same tables' pages."""
    root = 0x7000
    words = {**PAE_WORDS, root: 0x8000 | TABLE, 0x8000: PD | TABLE}
    guest = Guest(paging_off(), words, policy=policy)
    cpu = guest.cpu
    for _ in range(2):
        assert guest.reads(DATA) == DATA
        mov_cr4(cpu, CR4_PAE)
        mov_cr3(cpu, PDPT)
        mov_cr0(cpu, ON)
        assert (guest.reads(0), cpu.registers.mode) == (DATA, "PAE")
        assert guest.reads(3 << 30) == OTHER

        mov_cr0(cpu, CR0_PE)
        assert guest.reads(OTHER) == OTHER
        wrmsr_efer(cpu, EFER_LME | EFER_NXE)
        mov_cr3(cpu, root)
        mov_cr0(cpu, ON)
        assert (guest.reads(0), cpu.registers.mode) == (DATA, "4-level")
        assert cpu.registers.efer == EFER_LME | EFER_LMA | EFER_NXE
        assert isinstance(guest.reads(1 << 39), PageFault)

        mov_cr0(cpu, CR0_PE)
        assert guest.reads(OTHER) == OTHER  # EFER.LME is still set
        wrmsr_efer(cpu, 0)
        mov_cr4(cpu, CR4_PSE)
        cpu.store(PT, OTHER | USER_PAGE)  # a table of the modes before, without paging
        cpu.store(PT, DATA | USER_PAGE)
        guest.put({0x9000: 0xA000 | TABLE, 0xA000: OTHER | USER_PAGE}, 4)
        mov_cr3(cpu, 0x9000)
        mov_cr0(cpu, ON)
        assert (guest.reads(0, 4), cpu.registers.mode) == (OTHER, "32-bit")

        mov_cr0(cpu, CR0_PE)
        assert cpu.registers.efer == 0


def test_the_guest_reads_its_own_registers_and_not_the_hardwares():
    guest = narrow()
    seen, hardware = guest.cpu.registers, guest.cpu.controls
    assert (seen.mode, hardware.mode) == ("32-bit", "PAE")
    assert (seen.cr0 & CR0_WP, seen.cr3, seen.efer) == (0, PD, 0)
    assert hardware.cr0 & CR0_WP
    assert hardware.efer & EFER_NXE
    walked = guest.vcpu.mmu._walk.walk(0)
    assert isinstance(walked, Mapped)


def test_a_slot_that_goes_takes_the_roots_with_it_and_new_ones_are_taken_up_at_once():
    guest = Guest(Controls(**PAE_BOOT), PAE_WORDS)
    assert guest.reads(0) == DATA
    guest.vm.set_region(1, 1 << 30, 1 << 20, 1 << 40)
    guest.vm.set_region(1, 1 << 30, 0, 0)
    assert guest.reads(0) == DATA
    assert guest.reads(3 << 30) == OTHER


def test_today_keeps_no_previous_root_of_a_guest_of_32_bits():
    """KVM caches roots that are one page (fast_pgd_switch); these come in quarters."""
    guest = Guest(Controls(**PAE_BOOT), {**PAE_WORDS, 0x1040: 0x5000 | P}, policy=TODAY.name)
    mov_cr3(guest.cpu, 0x1040)
    assert len(guest.vcpu.mmu._roots._roots) == 1
    made = len(guest.made())
    mov_cr3(guest.cpu, PDPT)
    assert len(guest.made()) == made  # its pages were still there
    assert guest.reads(0) == DATA


# ----- CR0.WP clear, and the cache of roots ---------------------------------------------------

PML4, PDPT4, LONG_PD, LONG_PT = 0xB000, 0xC000, 0xD000, 0xE000
LONG_WORDS = {
    PML4: PDPT4 | TABLE,
    PDPT4: LONG_PD | TABLE,
    LONG_PD: LONG_PT | TABLE,
    LONG_PT: DATA | USER_PAGE & ~RW,
}
LONG_BOOT = {"cr3": PML4, "cr4": CR4_PAE, "efer": EFER_LME | EFER_LMA}


def long_guest(cr0=ON, cr4=0, policy="today", words=()):
    boot = Controls(**{**LONG_BOOT, "cr0": cr0, "cr4": CR4_PAE | cr4})
    return Guest(boot, {**LONG_WORDS, **dict(words)}, policy=policy)


def rights(guest):
    """W, U and XD of the leaf of address 0."""
    page = guest.vcpu.mmu._roots.current.page(0)
    while page.role.level > 1:
        page = guest.pages.child(Slot(page, 0))
    spte = guest.pages.read(Slot(page, 0))
    return bool(spte & RW), bool(spte & US), bool(spte >> 63)


@pytest.mark.parametrize("smep", [0, CR4_SMEP])
@pytest.mark.parametrize("policy", ALL)
def test_with_wp_clear_a_read_only_user_page_is_the_kernels_to_write_or_the_users_to_read(
    policy, smep
):
    """The hardware has WP set.  Documentation/virt/kvm/x86/mmu.rst, "Emulating cr0.wp"."""
    guest = long_guest(cr4=smep, policy=policy)
    for value in range(3):
        guest.cpu.store(0, value)
        assert rights(guest) == (True, False, bool(smep))
        assert guest.reads(0) == value
        assert rights(guest) == (False, True, False)
    guest.cpu.cpl = 3
    with pytest.raises(StopIteration):
        guest.cpu.store(0, 1)
    assert guest.faults == [PageFault(0, 7, Kind.WRITE, user=True)]


def test_a_change_of_wp_is_another_tree_and_back_is_the_first_one():
    guest = long_guest()
    guest.cpu.store(0, 1)
    for cr0 in (ON | CR0_WP, ON, ON | CR0_WP):
        made = len(guest.made())
        mov_cr0(guest.cpu, cr0)
        with contextlib.suppress(StopIteration):
            guest.cpu.store(0, 2)
        assert bool(guest.faults) == bool(cr0 & CR0_WP)
        guest.faults.clear()
        guest.reads(0)
        new = len(guest.made()) - made
        assert new == (4 if made == 4 else 0)  # each of the four tables, the first time only


def test_roots_at_hand_are_told_apart_by_cr3_and_role():
    """is_root_usable(): the same CR3 with another role is another root."""
    other = {0xF000: PDPT4 | TABLE}
    guest = long_guest(words=other)
    roots = guest.vcpu.mmu._roots
    first = roots.current
    mov_cr0(guest.cpu, ON | CR0_WP)
    second = roots.current
    assert (first.key.cr3, first.pages[0]) != (second.key.cr3, second.pages[0])
    mov_cr3(guest.cpu, 0xF000)
    assert len(roots._roots) == 3
    mov_cr3(guest.cpu, PML4)
    assert roots.current is second
    mov_cr0(guest.cpu, ON)
    assert roots.current is first
    mov_cr4(guest.cpu, CR4_PAE | CR4_SMEP)  # flushes, so nothing may stay behind unsynced
    assert len(roots._roots) == 1


def test_today_has_three_previous_roots_of_a_long_mode_guest():
    others = {0x1_0000 + 0x1000 * n: PDPT4 | TABLE for n in range(5)}
    guest = long_guest(words=others)
    for cr3 in others:
        mov_cr3(guest.cpu, cr3)
    assert [one.key.cr3 for one in guest.vcpu.mmu._roots._roots] == [*others][:0:-1]

"""What an entry from before may not allow: shared frames of the host, other roots of a PCID."""

import contextlib

import pytest

from kvmlab.base.errors import BadSize
from kvmlab.hardware.instructions import invlpg, mov_cr3, mov_cr4
from kvmlab.hardware.processor import CR4_PCIDE, Processor
from kvmlab.host.ksm import RUN
from tests.small_guest import DESIGNS, FIRST, PT, ROOT, TABLE, WINDOW, WINDOW_PD, SmallGuest

READ_ONLY, WRITABLE = 0x65, 0x67  # present, user, A and D
NO_FLUSH = 1 << 63
OTHER, OTHER_PDPT = 0x9000, 0xA000  # a root that maps the window alone


@pytest.mark.parametrize("design", DESIGNS)
def test_a_page_that_ksm_shares_stays_read_only_when_the_guest_makes_it_writable(design):
    """FNAME(sync_spte) keeps what the host allows: shadow_host_writable_mask."""
    guest = SmallGuest(design)
    for page in range(4):
        guest.cpu.store(page << 12, 7)
    guest.cpu.store(WINDOW + PT, FIRST | READ_ONLY)
    mov_cr3(guest.cpu, ROOT)
    guest.process.advise_mergeable(guest.hva, wanted=True)
    guest.host.ksm.run = RUN
    for _ in range(4):
        guest.host.ksm.scan(100_000)
    assert guest.vm.look(FIRST).host.address == guest.vm.look(FIRST + 4096).host.address
    assert guest.cpu.load(0) == 7
    guest.cpu.store(WINDOW + PT, FIRST | WRITABLE)
    mov_cr3(guest.cpu, ROOT)
    guest.cpu.store(0, 9)
    assert [guest.cpu.load(page << 12) for page in range(4)] == [9, 7, 7, 7]


@pytest.mark.parametrize("design", DESIGNS)
def test_a_flush_of_a_pcid_reaches_the_roots_that_had_it_before(design):
    """kvm_invalidate_pcid(): also the root that was current until this load of CR3."""
    guest = SmallGuest(design)
    mov_cr4(guest.cpu, guest.cpu.registers.cr4 | CR4_PCIDE)
    guest.vm.write(OTHER, (OTHER_PDPT | TABLE).to_bytes(8, "little"))
    guest.vm.write(OTHER_PDPT + 8, (WINDOW_PD | TABLE).to_bytes(8, "little"))
    mov_cr3(guest.cpu, ROOT | 1)
    guest.cpu.store(0, 1)
    guest.cpu.store(0x1000, 2)
    guest.cpu.store(WINDOW + PT, FIRST + 0x1000 | WRITABLE)  # page 0 moves, no INVLPG
    mov_cr3(guest.cpu, OTHER | 1)  # flushes PCID 1
    guest.cpu.load(WINDOW)
    mov_cr3(guest.cpu, ROOT | 1 | NO_FLUSH)
    assert guest.cpu.load(0) == 2


def test_an_address_beyond_ept_leaves_no_note_in_an_entry_of_another():
    """kvm_mmu_max_gfn(): with four levels bits 52:48 choose nothing."""
    guest = SmallGuest("ept", processor=Processor(maxphyaddr=52))
    guest.cpu.store(0, 7)
    leaf = guest.mmu.direct.tree.find(FIRST)
    guest.cpu.store(WINDOW + PT + 8, 1 << 48 | FIRST | WRITABLE)
    invlpg(guest.cpu, 0x1000)
    assert guest.cpu.load(0x1000) == (1 << 64) - 1  # nobody answers
    assert guest.mmu.direct.tree.find(FIRST) == leaf


def test_what_was_dropped_before_an_error_is_flushed_all_the_same():
    guest = SmallGuest("ept")
    with contextlib.suppress(BadSize), guest.vm.flushes.together():
        guest.vm.flushes.request("unmap")
        raise BadSize
    assert guest.vcpu.flushes.pending

"""What filling, syncing and emulated writes have in common."""

from dataclasses import dataclass

from kvmlab.kvm.flushes import RemoteFlushes
from kvmlab.kvm.guest_walk import GuestWalk
from kvmlab.kvm.policy import Policy
from kvmlab.kvm.shadow_pages import ShadowPages
from kvmlab.kvm.shadow_sptes import Sptes
from kvmlab.kvm.vm import Vm


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one shadow MMU that the others work with."""

    vm: Vm
    policy: Policy
    flushes: RemoteFlushes
    guest: GuestWalk
    pages: ShadowPages
    sptes: Sptes

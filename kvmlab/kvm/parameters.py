"""KVM's module parameters, as far as the MMUs obey them: /sys/module/kvm*/parameters.

Linux, Documentation/admin-guide/kernel-parameters.txt.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameters:
    """How kvm, kvm_intel and kvm_amd were loaded."""

    tdp_mmu: bool = True  # kvm: the direct MMU of 2020; else that of the shadow pages
    pml: bool = True  # kvm_intel.pml: the processor logs dirty pages
    eptad: bool = True  # kvm_intel.eptad: the processor keeps A and D bits in EPT
    eager_page_split: bool = True  # kvm: large leaves are split when logging starts
    nx_huge_pages: bool = False  # kvm: no large leaf is executable (iTLB multihit, 2019)
    mmio_caching: bool = True  # kvm: accesses that no memory answers are remembered in leaves


DEFAULTS = Parameters()

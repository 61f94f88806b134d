"""The hypervisor: memslots, the EPT MMU, the shadow MMU, exit handlers."""

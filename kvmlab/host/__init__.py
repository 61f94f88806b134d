"""Linux on the host: frames, and the address space of the VMM process."""

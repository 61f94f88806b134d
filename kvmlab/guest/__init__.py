"""Linux in the VM: it knows a CPU and a memory map, and nothing of a host."""

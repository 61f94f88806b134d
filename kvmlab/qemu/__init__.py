"""The VMM process: RAM block, memslots, firmware."""

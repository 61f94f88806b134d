"""What silicon does: RAM, table formats, the walk, permissions, TLB, a logical CPU."""

"""What any Linux kernel does with frames; guest and host each have an instance."""

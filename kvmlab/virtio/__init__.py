"""The contract between driver and device: rings in guest memory, registers, balloon formats."""

"""The ground floor: errors, addresses and sizes, the simulated clock, the tap."""

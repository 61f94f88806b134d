"""The ground floor: errors, addresses and sizes, the tap."""

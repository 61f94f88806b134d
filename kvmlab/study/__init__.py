"""How much it costs: replay a program at speed, count, compare designs."""

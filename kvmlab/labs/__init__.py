"""The labs: `walk` and `modes`, each one call that shows one lab.

A lab is loaded when it is first called, so importing this package costs next to nothing and
loads no chart library.
"""

__all__ = ["modes", "walk"]


def walk(*args: object, **options: object) -> object:
    """One access through the four address spaces, step by step: see `kvmlab.labs.walk.WalkLab`."""
    from kvmlab.labs.walk_lab import WalkLab

    return WalkLab(*args, **options)

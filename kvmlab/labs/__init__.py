"""The labs, each one call that shows one of them.

A lab is loaded when it is first called, so importing this package costs next to nothing and
loads no chart library.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmlab.labs.ask_lab import Ask
    from kvmlab.labs.balloon_lab import BalloonLab
    from kvmlab.labs.glossary_lab import Glossary
    from kvmlab.labs.hugepages_lab import HugePagesLab
    from kvmlab.labs.lab import Lab
    from kvmlab.labs.modes_lab import ModesLab
    from kvmlab.labs.overcommit_host_lab import HostLab
    from kvmlab.labs.overcommit_lab import OvercommitLab
    from kvmlab.labs.progress_lab import ProgressPanel
    from kvmlab.labs.spaces_lab import SpacesLab
    from kvmlab.labs.tables_lab import TablesLab
    from kvmlab.labs.walk_lab import WalkLab
    from kvmlab.machine import Machine
    from kvmlab.management.connection import virConnect
    from kvmlab.management.domain import virDomain

__all__ = [
    "ask",
    "balloon",
    "glossary",
    "hugepages",
    "modes",
    "overcommit",
    "progress",
    "spaces",
    "tables",
    "walk",
]


def walk(
    machine: "Machine | None" = None,
    share: str = "",
    **chosen: Any,  # noqa: ANN401  values of the plan: ``design="shadow"``
) -> "WalkLab":
    """One access through the four address spaces, step by step.

    With a ``machine`` of your own, its current process is looked at as it is.  ``share`` is a
    share string; ``chosen`` are values of the lab's plan (`WalkLab.BEGINNING`).
    """
    from kvmlab.labs.walk_lab import WalkLab

    return WalkLab(machine, share, **chosen)


def modes(
    trace: "str | Machine | virDomain" = "sort",
    share: str = "",
    **chosen: Any,  # noqa: ANN401  values of the plan: ``records=20_000``
) -> "ModesLab":
    """A recorded program under native paging, shadow paging, EPT and four more, side by side.

    ``trace`` is a shipped name or the path of a trace, or a machine or domain of your own, of which
    the process that runs is taken; ``share`` is a share string; ``chosen`` are values of the lab's
    plan (`ModesLab.BEGINNING`).
    """
    from kvmlab.labs.modes_lab import ModesLab

    return ModesLab(trace, share, **chosen)


def spaces(machine: "Machine | None" = None, share: str = "", **chosen: Any) -> "SpacesLab":  # noqa: ANN401  as `SpacesLab` takes
    """One page through GVA, GPA, HVA and HPA, in both directions, and what becomes of it.

    With a ``machine`` of your own, its current process is shown as it is.
    """
    from kvmlab.labs.spaces_lab import SpacesLab

    return SpacesLab(machine, share, **chosen)


def tables(machine: "Machine | None" = None, share: str = "", **chosen: Any) -> "TablesLab":  # noqa: ANN401  as `TablesLab` takes
    """Build the guest's page tables, edit their bits, and try accesses.

    With a ``machine`` of your own, its current process is shown as it is.
    """
    from kvmlab.labs.tables_lab import TablesLab

    return TablesLab(machine, share, **chosen)


def balloon(
    own: "virDomain | Machine | None" = None,
    share: str = "",
    **chosen: Any,  # noqa: ANN401  as its plan takes
) -> "BalloonLab":
    """A guest's balloon, inflated and deflated: what was asked for, reached, and returned.

    With a domain or machine of your ``own``, each look shows what its balloon did since the last.
    ``chosen`` are keys of `BalloonLab.BEGINNING`, ``share`` a share string.  Raises `BadChoice`.
    """
    from kvmlab.labs.balloon_lab import BalloonLab

    return BalloonLab(own, share, **chosen)


def overcommit(
    own: "virConnect | None" = None,
    share: str = "",
    manager: Any = "none",  # noqa: ANN401  a name or a function
    **chosen: Any,  # noqa: ANN401  as its plan takes
) -> "OvercommitLab | HostLab":
    """A day of many VMs on one host: what nova's ratio promises, and what that costs.

    ``manager`` is a name, or a balloon manager of your own: a function of a `HostSample` and
    `GuestSample`s.  With a connection to a simulated host of your ``own``, its VMs are looked at
    as they are.
    """
    if own is not None:
        from kvmlab.labs.overcommit_host_lab import HostLab

        return HostLab(own, share, **chosen)
    from kvmlab.labs.overcommit_lab import OvercommitLab

    return OvercommitLab(share, manager, **chosen)


def ask(
    kind: str = "walk",
    seed: int = 7,
    difficulty: int = 1,
    *,
    progress: str = "kvmlab-progress.json",
) -> "Ask":
    """A question of a kind (or of a topic such as ``walk``), judged, with hints and its solution.

    ``progress`` names the file that keeps the answers; "" keeps none.  Raises `BadChoice`.
    """
    from kvmlab.labs.ask_lab import Ask

    return Ask(kind, seed, difficulty, progress=progress)


def progress(path: str = "kvmlab-progress.json", *shown: "Lab") -> "ProgressPanel":
    """What was answered, with one button that saves and downloads it and the labs as they are.

    ``path`` is the file that keeps it, ``shown`` are labs that the notebook has no name for.
    """
    from kvmlab.labs.progress_lab import ProgressPanel

    return ProgressPanel(path, shown)


def glossary(find: str = "", language: str = "en") -> "Glossary":
    """The field's words, each in a sentence or two; those that have ``find`` in them.

    Raises `BadChoice` for a language that there is not.
    """
    from kvmlab.labs.glossary_lab import Glossary

    return Glossary(find, language)


def hugepages(
    own: "virDomain | Machine | None" = None,
    share: str = "",
    **chosen: Any,  # noqa: ANN401  as its plan takes
) -> "HugePagesLab":
    """4K, THP and hugetlbfs in guest and host: what maps what, what splits it, what it costs.

    With a domain or machine of your ``own``, the process that runs in it is looked at as it is.
    ``chosen`` are keys of `HugePagesLab.BEGINNING`, ``share`` a share string.  Raises `BadChoice`.
    """
    from kvmlab.labs.hugepages_lab import HugePagesLab

    return HugePagesLab(own, share, **chosen)

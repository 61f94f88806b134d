"""Free-page hints: while a migration starts, the guest lists blocks that need not be copied.

A hint takes nothing from the guest; it is good until the round is over.  QEMU,
hw/virtio/virtio-balloon.c: virtio_balloon_free_page_start(), get_free_page_hints().
"""

from collections.abc import Callable, Iterable
from enum import Enum

from kvmlab.base.tap import Tap
from kvmlab.qemu.records import FreeBlock
from kvmlab.virtio.balloon import HINT, HINT_DONE, HINT_STOP
from kvmlab.virtio.ring import Segment

_FIRST_ID = 0x8000_0000  # VIRTIO_BALLOON_FREE_PAGE_HINT_CMD_ID_MIN


class Round(Enum):
    """How far a round is."""

    STOPPED = "stopped"
    REQUESTED = "requested"  # the guest was asked, and has not begun
    RUNNING = "running"
    DONE = "done"  # the migration is over: the guest may use what it kept aside


class FreePageHints:
    """The state of hinting; ``changed`` tells the guest of a new command id."""

    def __init__(self, changed: Callable[[], None], tap: Tap) -> None:
        self._changed, self._tap = changed, tap
        self.round, self._id = Round.STOPPED, _FIRST_ID - 1
        self.hinted: list[Segment] = []  # what need not be copied

    @property
    def config_id(self) -> int:
        """``free_page_hint_cmd_id`` as the guest reads it."""
        if self.round is Round.REQUESTED:
            return self._id
        return HINT_DONE if self.round is Round.DONE else HINT_STOP

    def start(self) -> None:
        """A migration begins: ask for hints under a new id."""
        self._id = _FIRST_ID if self._id == 0xFFFF_FFFF else self._id + 1
        self.hinted.clear()
        self._enter(Round.REQUESTED)

    def stop(self) -> None:
        """Take no more hints: the pages sent so far may be changed again."""
        if self.round in (Round.REQUESTED, Round.RUNNING):
            self._enter(Round.STOPPED)

    def done(self) -> None:
        """The migration is over: the guest may have its blocks back."""
        self._enter(Round.DONE)

    def command(self, number: int) -> None:
        """The guest sent an id: ours begins the round, any other ends it."""
        if self.round is Round.REQUESTED and number == self._id:
            self.round = Round.RUNNING
        elif self.round is Round.RUNNING:
            self.round = Round.STOPPED

    def blocks(self, blocks: Iterable[Segment]) -> None:
        """The guest listed blocks; outside a round they are ignored."""
        for block in blocks if self.round is Round.RUNNING else ():
            self.hinted.append(block)
            self._tap(FreeBlock(HINT, block.gpa, block.length, 0))

    def _enter(self, state: Round) -> None:
        self.round = state
        self._changed()

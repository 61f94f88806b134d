"""Long work in a kernel: between two slices of it, whoever waits has a turn."""

import asyncio

_PASSES = 10


async def turn_of_others() -> None:
    """Let a message of the browser be heard, if there is one.

    On its way from the socket to its handler it passes several callbacks of the kernel's loop;
    after one pass it would wait for so many slices.
    """
    for _ in range(_PASSES):
        await asyncio.sleep(0)

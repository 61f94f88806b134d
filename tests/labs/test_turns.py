"""Between two slices of long work a message of the browser comes through."""

import asyncio

from kvmlab.labs import modes_lab


def test_a_message_that_passes_several_callbacks_is_heard_after_one_slice():
    """A socket's callback, its queue, the dispatcher and the handler each take a pass."""
    heard, slices = [], []

    def passing(more):
        if more:
            asyncio.get_running_loop().call_soon(passing, more - 1)
        else:
            heard.append(len(slices))

    def job():
        for number in range(3):
            slices.append(number)
            if not number:
                passing(6)
            yield

    asyncio.run(modes_lab._in_slices(job()))
    assert heard == [1]

"""Host memory: the same bytes for every reader, sparse, and like a bus beyond its end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.base.errors import BadAddress, BadSize
from kvmlab.hardware.ram import ALL_ONES, PAGE_SIZE, Ram

FRAMES = 6
SIZE = FRAMES * PAGE_SIZE

words = st.integers(0, SIZE // 8 - 1).map(lambda n: 8 * n)
halves = st.integers(0, SIZE // 4 - 1).map(lambda n: 4 * n)
ranges = st.tuples(st.integers(0, SIZE - 1), st.binary(max_size=2 * PAGE_SIZE))
operations = st.one_of(
    st.tuples(st.just("store"), words, st.integers(0, ALL_ONES)),
    st.tuples(st.just("store4"), halves, st.integers(0, 0xFFFF_FFFF)),
    ranges.map(lambda one: ("write", *one)),
    st.tuples(st.just("discard"), st.integers(0, FRAMES - 1)),
)


class Plain:
    """Memory as one bytearray."""

    def __init__(self):
        self.bytes = bytearray(SIZE)

    def store(self, hpa, value):
        self.bytes[hpa : hpa + 8] = value.to_bytes(8, "little")

    def store4(self, hpa, value):
        self.bytes[hpa : hpa + 4] = value.to_bytes(4, "little")

    def write(self, hpa, data):
        fits = data[: SIZE - hpa]
        self.bytes[hpa : hpa + len(fits)] = fits

    def discard(self, pfn):
        self.bytes[pfn * PAGE_SIZE : (pfn + 1) * PAGE_SIZE] = bytes(PAGE_SIZE)


@given(st.lists(operations, max_size=20))
def test_every_reader_sees_what_any_writer_wrote(done):
    ram, plain = Ram(SIZE), Plain()
    for name, *arguments in done:
        getattr(ram, name)(*arguments)
        getattr(plain, name)(*arguments)

    whole = bytes(plain.bytes)
    assert ram.read(0, SIZE) == whole
    for hpa in range(0, SIZE, 1000 & ~7):
        assert ram.load(hpa) == int.from_bytes(whole[hpa : hpa + 8], "little")
        assert ram.load4(hpa + 4) == int.from_bytes(whole[hpa + 4 : hpa + 8], "little")
    pages = {pfn: whole[pfn * PAGE_SIZE : (pfn + 1) * PAGE_SIZE] for pfn in range(FRAMES)}
    assert ram.image() == {pfn: page for pfn, page in pages.items() if any(page)}
    for pfn, page in pages.items():
        assert ram.frame(pfn).tobytes() == page


def test_memory_takes_space_only_where_it_is_used():
    ram = Ram(1 << 40)
    assert ram.frames_in_use == 0
    for frame in range(200):  # more than the pool begins with
        ram.store(frame << 30, frame + 1)
    assert [ram.load(frame << 30) for frame in range(200)] == list(range(1, 201))
    assert ram.frames_in_use == 200
    for frame in range(200):
        ram.discard(frame << 18)
    assert ram.frames_in_use == 0
    assert ram.image() == {}


def test_a_discarded_frame_comes_back_as_zeroes():
    ram = Ram(SIZE)
    ram.store(0x1008, ALL_ONES)
    ram.discard(1)
    assert ram.load(0x1008) == 0
    ram.store(0x2000, 1)  # takes the slot that frame 1 gave back
    assert ram.load(0x2008) == 0


def test_nobody_answers_beyond_the_end():
    ram = Ram(SIZE)
    ram.store(SIZE, 1)
    ram.store4(SIZE + 4, 1)
    ram.write(SIZE - 2, b"abcd")

    assert ram.load(SIZE) == ALL_ONES
    assert ram.load4(SIZE + 4) == 0xFFFF_FFFF
    assert ram.read(SIZE - 2, 4) == b"ab\xff\xff"
    assert ram.load((1 << 52) - 8) == ALL_ONES
    assert ram.frames_in_use == 1


@pytest.mark.parametrize(
    "action, text",
    [
        (lambda ram: ram.load(0x1001), "8-byte load at 0x1001 is not aligned to 8 bytes"),
        (lambda ram: ram.store(0x1004, 1), "8-byte store at 0x1004 is not aligned to 8 bytes"),
        (lambda ram: ram.load4(0x1002), "4-byte load at 0x1002 is not aligned to 4 bytes"),
        (lambda ram: ram.store4(0x1006, 1), "4-byte store at 0x1006 is not aligned to 4 bytes"),
    ],
)
def test_a_misaligned_word_is_misuse_and_changes_nothing(action, text):
    ram = Ram(SIZE)
    with pytest.raises(BadAddress) as caught:
        action(ram)
    assert str(caught.value) == text
    assert ram.frames_in_use == 0


@pytest.mark.parametrize("size", [0, -4096, 0x1234])
def test_a_size_that_is_no_number_of_frames_is_refused(size):
    with pytest.raises(BadSize, match=f"{size:#x}"):
        Ram(size)

"""The fields of /proc/meminfo mean what the kernel means by them."""

from kvmlab.linux.frames import Role
from kvmlab.linux.meminfo import available, mem_available, meminfo
from tests.linux.kernel import Kernel, page


def test_mem_available_of_the_measured_guest():
    """Case 63: free 555,412 KiB, cache 409,600, reserve 66,804, low mark 55,840; exact."""
    assert available(555_412, 409_600, 66_804, 55_840) == 842_368


def test_mem_available_keeps_half_of_a_small_cache_and_is_never_negative():
    assert available(1000, 100, 50, 500) == 1000
    assert available(10, 0, 50, 500) == 0
    assert available(1000, 0, 0, 10, reclaimable=100) == 1090


def test_every_field_follows_what_the_frames_are():
    kernel = Kernel(4096, slots=1000, min_free_kbytes=512)
    process, files = kernel.process(), kernel.process("files", killable=False)
    for index in range(300):
        process.touch(index, page(index))
    for index in range(200):
        files.touch(index, page(index) if index < 50 else None, Role.FILE)
    for index in range(200, 240):
        files.touch(index, role=Role.BUFFERS)
    for index in range(1000, 1030):
        process.touch(index, role=Role.SHMEM)
    for role, count in ((Role.TABLE, 7), (Role.BALLOON, 5), (Role.KERNEL, 3)):
        for _ in range(count):
            kernel.memory.alloc(role)
    fields = meminfo(kernel.memory)
    used = 300 + 240 + 30 + 7 + 5 + 3
    expected = {"MemTotal": 4096, "MemFree": 4096 - used, "Cached": 230, "Buffers": 40}
    expected |= {"AnonPages": 300, "Shmem": 30, "Dirty": 50, "PageTables": 7}
    expected |= {"Inactive(anon)": 330, "Inactive(file)": 240, "Active": 0, "Inactive": 570}
    expected |= {"SwapTotal": 1000, "SwapFree": 1000, "SwapCached": 0, "AnonHugePages": 0}
    assert {name: fields[name] for name in expected} == {
        name: count * 4 for name, count in expected.items()
    }
    assert fields["MemAvailable"] == 4 * mem_available(kernel.memory)
    assert fields["MemAvailable"] == 4 * (4096 - used - (128 + 64) + 240 - 120)
    assert (fields["HugePages_Total"], fields["Hugepagesize"]) == (0, 2048)


def test_a_balloon_takes_its_pages_out_of_mem_total():
    kernel = Kernel(4096)
    kernel.memory.zone.managed -= 1000
    assert meminfo(kernel.memory)["MemTotal"] == 3096 * 4

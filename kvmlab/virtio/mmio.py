"""virtio over MMIO: the registers in one window of guest-physical memory, each 32 bits wide.

VIRTIO 1.2, section 4.2.2, "MMIO Device Register Layout".
"""

from enum import IntEnum

MAGIC, VERSION = 0x74726976, 2  # "virt"; version 1 is the legacy interface
WINDOW = 0x200  # bytes; QEMU gives each device so many (hw/i386/microvm.c)
CONFIG = 0x100  # the device's own configuration space begins here
INTERRUPT_QUEUE, INTERRUPT_CONFIG = 1, 2


class Register(IntEnum):
    """Offsets in the window."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    CONFIG_GENERATION = 0x0FC

"""QMP: shapes and refusals as measured on QEMU 7.2; numbers are those of the fact sheet's table."""

import json

import pytest

from kvmlab.base.errors import BadChoice
from kvmlab.qemu.balloon import BalloonOptions
from kvmlab.qemu.balloon_stats import NAMES, UNKNOWN
from kvmlab.qemu.records import BalloonTarget
from tests.balloon_under_test import PATH, machine, qmp, refusal

INTERVAL = "guest-stats-polling-interval"


@pytest.fixture
def records():
    return []


@pytest.fixture
def made(records):
    return machine("16M", driver=False, tap=records.append)


def test_commands_and_answers_are_json(made):
    def execute(text):
        return json.dumps(made.qemu.monitor.execute(text))

    assert execute('{"execute":"query-balloon"}') == '{"return": {"actual": 16777216}}'
    assert execute('{"execute":"balloon","arguments":{"value":8388608}}') == '{"return": {}}'
    assert made.balloon.num_pages == 2048
    assert execute('{"execute":"balloon","arguments":{"value":1}}') == '{"return": {}}'
    assert made.balloon.num_pages == 4095


def test_guest_stats_has_every_name_and_a_date(made):
    shown = qmp(made, "qom-get", path=PATH, property="guest-stats")
    assert shown == {"stats": dict.fromkeys(NAMES.values(), UNKNOWN), "last-update": 0}


@pytest.mark.parametrize("value", [0, 1, 10, 0xFFFF_FFFF])
def test_the_interval_is_what_was_set(made, value):
    assert qmp(made, "qom-set", path=PATH, property=INTERVAL, value=value) == {}
    assert qmp(made, "qom-get", path=PATH, property=INTERVAL) == value


WRONG_TYPE = "Invalid parameter type for '{}', expected: {}"


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"value": 0}, "Parameter 'target' expects a size"),  # 16
        ({"value": -5}, "Parameter 'target' expects a size"),
        ({"value": "1G"}, WRONG_TYPE.format("value", "integer")),  # 17
        ({"value": 1.0}, WRONG_TYPE.format("value", "integer")),
        ({"value": True}, WRONG_TYPE.format("value", "integer")),
        ({"value": None}, WRONG_TYPE.format("value", "integer")),
        ({"value": 1 << 63}, WRONG_TYPE.format("value", "integer")),
        ({}, "Parameter 'value' is missing"),  # 18
        ({"value": 4096, "foo": 1}, "Parameter 'foo' is unexpected"),
    ],
)
def test_a_target_that_is_none_is_refused_and_changes_nothing(made, records, arguments, text):
    assert refusal(made, "balloon", **arguments) == ("GenericError", text)
    assert made.balloon.num_pages == 0
    assert not [one for one in records if isinstance(one, BalloonTarget)]


def test_without_a_device_there_is_no_balloon():  # 19; 29 on the level of QMP
    made = machine("16M", driver=False)
    made.qemu.monitor._balloon = None
    expected = ("DeviceNotActive", "No balloon device has been activated")
    assert refusal(made, "balloon", value=4096) == expected
    assert refusal(made, "query-balloon") == expected
    assert refusal(made, "balloon", value="x")[0] == "GenericError"  # types are looked at first
    assert refusal(made, "qom-get", path=PATH, property="guest-stats")[0] == "DeviceNotFound"


@pytest.mark.parametrize(
    "value, text",
    [
        (-1, "timer value must be greater than zero"),  # 20
        (1 << 32, "timer value is too big"),
        ("x", WRONG_TYPE.format(INTERVAL, "integer")),
        (False, WRONG_TYPE.format(INTERVAL, "integer")),
    ],
)
def test_an_interval_that_is_none_is_refused(made, value, text):
    qmp(made, "qom-set", path=PATH, property=INTERVAL, value=3)
    assert refusal(made, "qom-set", path=PATH, property=INTERVAL, value=value) == (
        "GenericError",
        text,
    )
    assert made.balloon.stats.interval == 3


def test_there_is_but_one_balloon(made):  # 21
    with pytest.raises(BadChoice, match=r"^Only one balloon device is supported$"):
        made.attach_balloon()


@pytest.mark.parametrize(
    "command, arguments, expected",
    [
        (
            "qom-set",
            {"path": PATH, "property": "guest-stats", "value": 1},
            ("GenericError", "Property 'virtio-balloon-device.guest-stats' is not writable"),  # 22
        ),
        (
            "qom-get",
            {"path": "/machine/x", "property": "guest-stats"},
            ("DeviceNotFound", "Device '/machine/x' not found"),
        ),
        (
            "qom-get",
            {"path": PATH, "property": "x"},
            ("GenericError", "Property 'virtio-balloon-device.x' not found"),
        ),
        (
            "qom-get",
            {"path": 5, "property": "x"},
            ("GenericError", WRONG_TYPE.format("path", "string")),
        ),
        ("query-balloon", {"x": 1}, ("GenericError", "Parameter 'x' is unexpected")),
        ("quit-balloon", {}, ("CommandNotFound", "The command quit-balloon has not been found")),
    ],
)
def test_what_there_is_not_is_said(made, command, arguments, expected):
    assert refusal(made, command, **arguments) == expected


def test_hinting_needs_a_thread():  # 23
    with pytest.raises(BadChoice, match=r"^'free-page-hint' requires 'iothread' to be set$"):
        BalloonOptions(free_page_hint=True)


def test_a_kvm_without_mmu_notifiers_has_no_balloon(made):
    """Bad input 30, read in QEMU's source."""
    made.qemu.process.notifiers.clear()
    text = "Using KVM without synchronous MMU, balloon unavailable"
    assert refusal(made, "query-balloon") == ("KVMMissingCap", text)
    assert refusal(made, "balloon", value=4096) == ("KVMMissingCap", text)


@pytest.mark.parametrize(
    "command, text",
    [
        ("{", "JSON parse error"),
        ("[]", "QMP input must be a JSON object"),
        ("{}", "QMP input lacks member 'execute'"),
        ('{"execute": 5}', "QMP input member 'execute' must be a string"),
        ('{"execute": "x", "arguments": 5}', "QMP input member 'arguments' must be an object"),
        ('{"execute": "x", "more": 5}', "QMP input member 'more' is unexpected"),
    ],
)
def test_what_is_no_command_is_refused(made, command, text):
    """Recalled from QEMU's source, not measured."""
    error = made.qemu.monitor.execute(command)["error"]
    assert error["class"] == "GenericError"
    assert error["desc"].startswith(text)


def test_a_kernel_on_the_metal_has_no_balloon():
    made = machine("16M", driver=False)
    made.qemu = None
    with pytest.raises(BadChoice, match="needs a hypervisor"):
        made.attach_balloon()

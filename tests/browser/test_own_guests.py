"""Labs around a guest or a host of the learner's own, in JupyterLab by keyboard."""

import pytest

from tests.browser.sight import assert_fits

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)
DOMAIN = """from kvmlab import labs
from kvmlab.base.clock import SECOND
from kvmlab.machine import Server, connect, machine_of

server = Server("128M", swap="64M")
xml = '''<domain type='kvm'><name>&lt;b&gt;mine</name><memory unit='MiB'>32</memory>
<os><type>hvm</type></os><devices><memballoon model='virtio'><stats period='1'/></memballoon>
</devices></domain>'''
connection = connect(server)
domain = connection.createXML(xml)
server.clock.sleep(2 * SECOND)
"""
MACHINE = """from kvmlab import labs
from kvmlab.machine import Machine

machine = Machine(guest_memory="32M", host_memory="128M")
guest = machine.guest
guest.switch(guest.spawn("<b>mine"))
guest.current.mmap(0x4000_0000, "8M", page="2M")
"""
TOUCHED = """guest = machine_of(domain).guest
guest.switch(guest.spawn("app"))
guest.current.mmap(0x1000_0000, "8M")
for page in range(2048):
    guest.store(0x1000_0000 + (page << 12), page)"""
CELLS = {
    "balloon": (
        DOMAIN + "lab = labs.balloon(domain)\nlab",
        "domain.setMemory(28 << 10)\nserver.clock.sleep(3 * SECOND)",
    ),
    "hugepages": (
        MACHINE + "lab = labs.hugepages(machine)\nlab",
        "guest.store(0x4000_0000, 1)",
    ),
    "modes": (
        MACHINE + "guest.store(0x4000_0000, 1)\nlab = labs.modes(machine)\nlab",
        "guest.store(0x4060_0000, 1)",
    ),
    "overcommit": (
        DOMAIN + "lab = labs.overcommit(connection)\nlab",
        TOUCHED,
    ),
}
"""For each lab a cell that shows what is one's own, and one in which something is done to it."""


def expected(name):
    """What the lab is to show after the look that follows: the same cells, run here."""
    space = {}
    for cell in CELLS[name]:
        exec(cell, space)  # noqa: S102  our own text
    lab = space["lab"]
    lab.predict.value = False
    lab.again.click()
    lab.player.step = len(lab.player.scene["steps"]) - 1
    return lab


@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize("name", CELLS)
def test_what_a_guest_of_ones_own_did_is_looked_at_by_keyboard(open_notebook, name, theme):
    here = expected(name)
    lab = open_notebook(*CELLS[name], theme=theme)
    lab.run_all()
    css = f".kvmlab-{name}"
    status, player = f"{css} .kvmlab-desk [role=status]", f"{css} .kvmlab-player"
    lab.page.wait_for_selector(f"{player} svg")
    lab.page.get_by_label("Ask before telling", exact=True).press("Space")
    lab.page.get_by_role("button", name="Look again", exact=True).press("Enter")
    lab.settle()
    lab.page.locator(player).focus()

    def told_at_the_end(fact):
        lab.page.keyboard.press("End")  # of the scene that is there by now
        return fact in lab.seen(status)

    facts = here._facts()
    assert facts
    for fact in [*facts, facts[0]]:
        lab.until(lambda told=fact: told_at_the_end(told))
    for key, text in here.player.scene["steps"][-1]["texts"].items():
        cell = lab.page.locator(f"{player} [data-text='{key}']")
        assert cell.text_content() == text, key
    assert lab.page.locator(f"{css} b", has_text="mine").count() == 0
    assert_fits(lab, css)
    lab.axe(css)
    lab.shot(f"own-{name}-{theme.lower()}", css)
    lab.page.get_by_label("Language / 语言", exact=True).select_option("中文")
    lab.page.get_by_role("button", name="重新查看", exact=True).wait_for()
    lab.shot(f"own-{name}-{theme.lower()}-chinese", css)

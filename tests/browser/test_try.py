import pytest


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_modes(open_notebook, theme):
    lab = open_notebook(
        "from kvmlab.labs.modes_lab import ModesLab\nlab = ModesLab()\nlab", theme=theme
    )
    lab.run_all()
    lab.page.wait_for_selector(".kvm-chart .bar")
    lab.shot("m_" + theme)
    lab.page.get_by_label("native").click()
    lab.page.wait_for_timeout(700)
    lab.page.get_by_label("Records").select_option("all")
    lab.page.wait_for_timeout(1500)
    lab.shot("m2_" + theme)
    lab.page.get_by_role("button", name="Stop").click()
    lab.page.wait_for_timeout(1500)
    lab.shot("m3_" + theme)

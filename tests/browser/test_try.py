import pytest


@pytest.mark.parametrize("theme", ["Light"])
def test_modes(open_notebook, theme):
    lab = open_notebook("from kvmlab import labs\nlab = labs.modes()\nlab", theme=theme)
    lab.run_all()
    lab.page.wait_for_selector(".kvm-chart .bar")
    lab.page.set_viewport_size({"width": 1366, "height": 1400})
    lab.page.wait_for_timeout(500)
    lab.shot("m_" + theme, ".kvm-modes")
    lab.page.get_by_label("Trace").select_option("a file of my own")
    lab.page.get_by_role("textbox", name="File", exact=True).fill("/etc/hosts")
    lab.page.keyboard.press("Enter")
    lab.page.wait_for_timeout(500)
    lab.page.set_viewport_size({"width": 860, "height": 1500})
    lab.page.wait_for_timeout(700)
    lab.shot(
        "m3_" + theme,
    )

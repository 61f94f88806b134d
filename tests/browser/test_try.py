CELL = """
import sys; sys.path.insert(0, "/tmp"); import engine_stub
import kvmlab.text as t, json, ipywidgets as w
t._catalogue = lambda l: json.load(open("/tmp/shots_h/modes.json"))
import types, kvmlab.study
c = types.ModuleType("kvmlab.study.compare"); c.Row = object
sys.modules["kvmlab.study.compare"] = c
from kvmlab.figures.modes import Chart, Series
from kvmlab.labs.charts import Bars
def two(k):
    a = Chart("References, by whose table is read", "page-table entries read", ["native","shadow","EPT"], [Series("G: guest tables","guest",[100*k,0,1200]), Series("H: EPT","host",[0,0,7000]), Series("H: shadow tables","shadow",[0,90,0])])
    b = Chart("VM exits, by reason","VM exits", ["native: none","shadow: #PF exception","shadow: CR access","EPT: EPT violation"][:2+k%3], [Series("H: the hypervisor is entered","host",[0,912,1,370*k][:2+k%3])])
    return a, b
a,b = two(5)
A,B = Bars(a), Bars(b)
s = w.Dropdown(description="n", options=list(range(1,40)), value=5)
s.add_class("slider")
def go(c): x,y = two(c.new); A.show(x); B.show(y)
s.observe(go, names="value")
w.VBox([s, w.GridBox([A,B], layout=w.Layout(grid_template_columns='repeat(auto-fit, minmax(320px, 1fr))', width="100%", grid_gap="16px"))])
"""
def test_a_slider_and_a_chart_work(open_notebook):
    for theme in ("Light","Dark"):
        lab = open_notebook(CELL, theme=theme)
        lab.run_all()
        lab.page.wait_for_selector(".kvm-chart .bar")
        lab.shot("c_"+theme)
        lab.page.locator(".slider select").select_option("10")
        lab.page.wait_for_timeout(1000)
        lab.shot("c2_"+theme)
        import pathlib; pathlib.Path("/tmp/shots_h/dom.html").write_text(lab.page.locator(".kvm-chart").first.inner_html())

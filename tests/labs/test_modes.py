"""The lab of the three designs: what it shows is what the study says, whatever is toggled."""

import asyncio
import functools
import lzma
import re
import sys
import time
from importlib import resources

import pytest

from kvmlab import labs, workloads
from kvmlab.base.errors import BadChoice
from kvmlab.figures import modes as figures
from kvmlab.labs import modes_lab
from kvmlab.labs.charts import names
from kvmlab.machine import DESIGNS, MMUS
from kvmlab.study import comparison
from kvmlab.study.compare import compare
from kvmlab.study.costs import MODELS

# bqplot's scales warn of their own traits when they are first imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)

RECORDS = 2_000
SHIPPED = functools.cache(workloads.shipped)


@pytest.fixture(autouse=True)
def _shipped_once(monkeypatch):
    """Unpacking a trace takes a second, and every lab here wants the same one."""
    monkeypatch.setattr(workloads, "shipped", SHIPPED)


@pytest.fixture
def lab():
    """The lab over the beginning of `sort`."""
    return labs.modes(records=RECORDS)


@pytest.fixture
def runs(monkeypatch):
    """The designs that are really run from now on, in order."""
    heard = []
    real = comparison.study

    def listening(trace, mmu, **options):
        heard.append(mmu)
        return real(trace, mmu, **options)

    monkeypatch.setattr(comparison, "study", listening)
    return heard


def shown(lab):
    """The cells of the table by the name of their row."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', lab.desk.value)
    return {name: re.findall("<td>(.*?)</td>", cells) for name, cells in rows}


def bars(lab):
    """What stands left of the bars."""
    return lab._drawn[0]._bars.x.tolist()


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def own(lab, path):
    """Choose a file of one's own."""
    lab.trace.value = modes_lab.OWN
    lab.file.value = path


def test_it_opens_with_the_shipped_sort_under_all_designs(lab):
    expected = compare(workloads.shipped("sort").head(RECORDS))
    assert [row.to_json() for row in lab.rows] == [row.to_json() for row in expected]


@pytest.mark.parametrize("name", figures.CHARTS)
def test_table_chart_and_sentence_show_the_same_numbers(lab, name):
    lab.chart.value = name
    chart = figures.CHARTS[name](lab.rows)
    assert bars(lab) == names(chart)
    assert lab._drawn[0]._bars.y.tolist() == [one.values for one in chart.series]
    assert shown(lab)["References"] == [f"{row.total.all_references:,}" for row in lab.rows]
    assert figures.sentence(lab.rows) in lab.desk.value


def test_the_sentence_is_a_status_and_the_table_has_headers_and_a_caption(lab):
    assert 'role="status"' in lab.desk.value
    assert lab.desk.value.count('scope="col"') == 4 + 3  # of two tables
    assert "<caption>" in lab.desk.value
    assert "A reference is one page-table-entry read" in lab.desk.value


def test_a_design_is_toggled_away_and_back_without_running_again(lab, runs):
    lab.designs["native"].value = False
    assert [row.mmu for row in lab.rows] == ["shadow", "ept"]
    assert len(shown(lab)["References"]) == 2
    lab.designs["native"].value = True
    assert [row.mmu for row in lab.rows] == ["native", "shadow", "ept"]
    assert runs == []


def test_a_design_that_was_not_run_yet_is_run_when_it_is_chosen(runs):
    lab = labs.modes(records=RECORDS, designs=["ept"])
    assert runs == ["ept"]
    lab.designs["shadow"].value = True
    assert runs == ["ept", "shadow"]


def test_charts_are_updated_in_place(lab):
    before = lab.charts.children
    lab.designs["native"].value = False
    assert lab.charts.children == before


def test_four_more_designs_are_offered_and_not_yet_chosen(lab, runs):
    assert [mmu for mmu, box in lab.designs.items() if box.value] == list(MMUS)
    more = [mmu for mmu in DESIGNS if mmu not in MMUS]
    for mmu in more:
        lab.designs[mmu].value = True
    assert runs == more
    expected = compare(workloads.shipped("sort").head(RECORDS), DESIGNS)
    assert [row.to_json() for row in lab.rows] == [row.to_json() for row in expected]
    lab.chart.value = "exits"
    assert any(name.startswith("NPT: NPF") for name in bars(lab))
    assert len(shown(lab)["References"]) == 7


def test_another_cost_model_prices_the_same_counts_anew(lab, runs):
    counts = [row.total for row in lab.rows]
    lab.chart.value = "cycles"
    priced = {}
    for one in MODELS:
        lab.costs.value = one.name
        priced[one.name] = [one.cycles(count).total for count in counts]
        assert [row.total for row in lab.rows] == counts
        assert shown(lab)["Cycles of walks and exits"] == [f"{n:,}" for n in priced[one.name]]
        assert bars(lab) == names(figures.cycles(lab.rows))
        assert f"“{one.name}” ({one.summary})" in lab.desk.value
    assert runs == []
    assert priced["boot-log"] > priced["nested"] > priced["graded"]


def test_a_design_that_is_chosen_later_has_the_price_of_all(lab):
    lab.costs.value = "dram"
    lab.designs["npt"].value = True
    assert {row.prices.name for row in lab.rows} == {"dram"}


def test_a_cost_model_that_there_is_not_is_refused_in_one_line():
    with pytest.raises(BadChoice, match="no cost model 'free'"):
        labs.modes(records=RECORDS, costs="free")


def test_l1s_shadow_paging_follows_the_policy_too(lab):
    lab.designs["l2-shadow"].value = True
    before = lab.rows[-1].total.all_exits
    lab.policy.value = "today"
    assert lab.rows[-1].policy == "today"
    assert lab.rows[-1].total.all_exits < before


def test_no_design_is_no_error(lab):
    for box in lab.designs.values():
        box.value = False
    assert lab.rows == []
    assert "Choose at least one" in lab.desk.value
    assert bars(lab) == []


def test_more_records_are_another_run(lab, runs):
    lab.records.value = 20_000
    assert runs == ["native", "shadow", "ept"]
    assert {row.records for row in lab.rows} == {20_000}
    lab.records.value = RECORDS
    assert len(runs) == 3


def test_all_records_can_be_chosen(tmp_path):
    path = write(tmp_path / "few", " L 1000,8", " S 2000,8", "I  400000,4")
    lab = labs.modes(path, records=None)
    assert lab.records.value == modes_lab.ALL
    assert {row.records for row in lab.rows} == {3}


def test_the_other_shipped_trace_can_be_chosen(lab):
    lab.trace.value = "ls"
    assert {row.trace for row in lab.rows} == {"ls"}


def test_a_file_of_ones_own_is_asked_for_then_run(lab, tmp_path):
    assert lab.player.scene["without"] == ["file"]
    before = lab.rows
    lab.trace.value = modes_lab.OWN
    assert lab.player.scene["without"] == []
    assert lab.rows == before
    lab.file.value = write(tmp_path / "mine", " L 1000,8")
    assert {row.trace for row in lab.rows} == {"mine"}


def test_a_synthetic_program_may_be_named_in_the_place_of_a_file(lab):
    own(lab, "strided:pages=8,count=40")
    expected = compare(workloads.trace_named("strided:pages=8,count=40"))
    assert [row.to_json() for row in lab.rows] == [row.to_json() for row in expected]


def test_a_file_that_changed_is_read_again(lab, tmp_path):
    path = tmp_path / "mine"
    own(lab, write(path, " L 1000,8"))
    write(path, " L 1000,8", " L 2000,8")
    done = lab._done
    done._loaded = (done._loaded[0][0], -1), done._loaded[1]  # as if much time had passed
    lab.designs["native"].value = False
    assert {row.records for row in lab.rows} == {2}


@pytest.mark.parametrize(
    "contents, complaint",
    [
        (None, "cannot be opened"),
        (b"", "is empty"),
        (b" L 1000,8\nnonsense\n", "line 2"),
        (b"\x00\xff\n", "looks binary"),
        (b" L ffffffff81000000,8\n", "kernel&#x27;s half"),
    ],
)
def test_bad_input_is_told_and_what_was_shown_stays(lab, tmp_path, contents, complaint):
    before, table = lab.rows, lab.desk.value
    path = tmp_path / "bad"
    if contents is not None:
        path.write_bytes(contents)
    own(lab, str(path))
    assert complaint in lab.notice.value
    assert (lab.rows, lab.desk.value) == (before, table)
    lab.trace.value = "sort"
    assert lab.notice.value == ""


def test_a_name_is_escaped(lab, tmp_path):
    own(lab, str(tmp_path / "<b>"))
    assert "<b>" not in lab.notice.value
    own(lab, write(tmp_path / "<i>", " L 1000,8"))
    assert "<i>" not in lab.desk.value


def test_an_error_in_a_run_is_told_and_the_next_run_works(lab, monkeypatch):
    def broken(_trace, _mmu):
        raise RuntimeError("the engine is broken")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "study", broken)
        lab.records.value = 20_000
    assert "the engine is broken" in lab.notice.value
    assert lab.records.value == RECORDS
    lab.records.value = 20_000
    assert lab.notice.value == ""


def test_its_text_is_short_and_always_the_same(lab):
    assert repr(lab) == repr(labs.modes(records=RECORDS))
    assert re.fullmatch(
        r"ModesLab\('sort', 2000 records; references/exits: "
        r"native \d+/0, shadow \d+/\d+, ept \d+/\d+\)",
        repr(lab),
    )


def test_every_control_has_a_name(lab):
    controls = [
        lab.trace,
        lab.file,
        lab.records,
        lab.stop,
        lab.policy,
        lab.costs,
        *lab.designs.values(),
    ]
    assert all(control.description for control in controls)


def test_without_bqplot_the_table_still_tells(monkeypatch):
    monkeypatch.setitem(sys.modules, "bqplot", None)
    lab = labs.modes(records=RECORDS)
    assert "bqplot" in lab.charts.children[0].value
    assert shown(lab)["References"]
    lab.designs["native"].value = False
    assert len(shown(lab)["References"]) == 2


class TestWhileTheKernelServesTheBrowser:
    """In a kernel a run goes in slices: other messages come in between."""

    @staticmethod
    def in_a_loop(work):
        asyncio.run(asyncio.wait_for(work(), 60))

    def test_progress_is_shown_and_hidden_again(self, lab, monkeypatch):
        monkeypatch.setattr(modes_lab, "BLINK", 0)

        async def work():
            lab.records.value = 20_000
            assert "Running native paging" in lab.progress.value
            assert "<progress max=" in lab.progress.value
            await lab._task
            assert lab.progress.value == ""
            assert {row.records for row in lab.rows} == {20_000}

        self.in_a_loop(work)

    def test_stop_leaves_what_was_shown(self, lab):
        before = lab.rows

        async def work():
            lab.records.value = 100_000
            await asyncio.sleep(0)
            lab.stop.click()
            await lab._task

        self.in_a_loop(work)
        assert lab.rows == before
        assert "Stopped" in lab.progress.value
        assert "<progress" not in lab.progress.value

    def test_a_new_choice_takes_the_place_of_the_run(self, lab, runs):
        async def work():
            lab.records.value = 100_000
            await asyncio.sleep(0)
            lab.records.value = 20_000
            await lab._task

        self.in_a_loop(work)
        assert {row.records for row in lab.rows} == {20_000}
        assert runs == ["native", "native", "shadow", "ept"]

    def test_going_back_to_what_is_shown_ends_the_run(self, lab, monkeypatch):
        monkeypatch.setattr(modes_lab, "BLINK", 0)
        before = lab.rows

        async def work():
            for wait in (0, 1):  # before the run has begun, and while it goes
                lab.records.value = 100_000
                assert "<progress" in lab.progress.value
                for _ in range(wait):
                    await asyncio.sleep(0)
                lab.records.value = RECORDS
                assert (lab._job, lab.progress.value) == (None, "")
                await lab._task

        self.in_a_loop(work)
        assert lab.rows == before

    @pytest.mark.long
    def test_two_million_records_show_progress_at_once_and_numbers_in_three_seconds(
        self, lab, tmp_path
    ):
        """Seconds of this processor, for others may use the machine meanwhile."""
        recorded = resources.files(workloads) / "data" / "sort.lackey.xz"
        path = tmp_path / "two_million.lackey"
        path.write_bytes(lzma.decompress(recorded.read_bytes()) * 2)
        said = []
        lab.progress.observe(lambda change: said.append((time.process_time(), change.new)), "value")

        async def work():
            begun = last = time.process_time()
            own(lab, str(path))
            lab.records.value = modes_lab.ALL
            pauses = []
            while not lab._task.done():
                await asyncio.sleep(0)
                last, pause = time.process_time(), time.process_time() - last
                pauses.append(pause)
            took, first = last - begun, said[0][0] - begun
            print(f"\nfirst word {first:.3f} s, numbers {took:.2f} s, longest {max(pauses):.3f} s")
            assert {row.records for row in lab.rows} == {2 * len(SHIPPED("sort"))}
            assert said[0][1].startswith("Reading ")
            assert any("of 2,050,584 accesses" in text for _, text in said)
            assert first < 0.1
            assert took < 3
            assert max(pauses) < 0.5  # so soon is a Stop heard

        self.in_a_loop(work)

    def test_a_cell_can_wait_for_the_rows(self, lab):
        async def work():
            lab.records.value = 20_000
            lab.finish()
            assert {row.records for row in lab.rows} == {20_000}
            await lab._task

        self.in_a_loop(work)

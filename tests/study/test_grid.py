"""Which cells a sweep has: every combination that can be, once; the others with their reason."""

import numpy as np
import pytest

from kvmlab import workloads
from kvmlab.base.errors import BadChoice, BadSize, TraceError
from kvmlab.hardware.records import Kind
from kvmlab.study.grid import Axes, grid
from kvmlab.workloads import Trace


@pytest.fixture(scope="module")
def trace():
    return workloads.shipped("ls").head(3000)


def test_an_axis_that_a_design_does_not_have_is_not_multiplied(trace):
    axes = Axes(
        mmus=("native", "shadow", "ept"),
        policies=("naive", "update"),
        host_levels=(4, 5),
        host_pages=("4K", "2M"),
    )
    mmus = [cell.mmu for cell in grid([trace], axes).cells]
    assert mmus.count("native") == 1  # no host page, no level of EPT, no policy
    assert mmus.count("shadow") == 2 * 2  # policies and host pages
    assert mmus.count("ept") == 2 * 2  # levels and host pages


def test_values_that_mean_the_same_are_one_cell(trace):
    axes = Axes(
        mmus=("ept", "ept"), guest_pages=("4K", 4096), tlbs=("tiny", "TINY"), walk_caches=("own",)
    )
    assert len(grid([trace], axes).cells) == 1
    caches = Axes(mmus=("ept",), tlbs=("unified", "skylake"), walk_caches=("own", "off", "on"))
    assert [(one.tlb, one.walk_caches) for one in grid([trace], caches).cells] == [
        ("unified", "off"),
        ("unified", "on"),
        ("skylake", "on"),
        ("skylake", "off"),
    ]


@pytest.mark.parametrize(
    "axes, reason",
    [
        (Axes(mmus=("ept", "native"), guest_pages=("4M",)), "maps pages of 4K, 2M, 1G"),
        (Axes(mmus=("agile",), guest_levels=(3,)), "agile paging shadows guests of 4 or 5"),
        (Axes(mmus=("ept",), guest_levels=(2,)), "user addresses end at 0xc0000000"),
    ],
)
def test_what_cannot_go_together_is_skipped_with_its_reason(trace, axes, reason):
    with pytest.raises(BadChoice, match=reason):  # nothing is left, so the reason is the answer
        grid([trace], axes)
    more = Axes(
        mmus=(*axes.mmus, "ept"),
        guest_pages=(*axes.guest_pages, "4K"),
        guest_levels=(*axes.guest_levels, 4),
    )
    plan = grid([trace], more)
    assert reason in plan.skipped[0][1]
    assert all(cell.guest_levels == 4 and cell.guest_page == "4K" for cell in plan.cells)


def test_a_narrow_guest_has_no_huge_page_under_it_and_no_memory_beyond_896m():
    narrow = Trace("low", *columns([0x1000 * n for n in range(30)]))
    plan = grid([narrow], Axes(guest_levels=(2, 3), host_pages=("4K", "1G"), mmus=("ept",)))
    assert len(plan.cells) == 2
    assert all("less memory than a page of 1G" in reason for _, reason in plan.skipped)
    wide = Trace("wide", *columns([0x40_0000 * n for n in range(200)]))
    axes = Axes(mmus=("ept",), guest_levels=(2,), guest_pages=("4K", "4M"))
    assert "more than the 896M" in grid([wide], axes).skipped[0][1]


def columns(addresses, kind=Kind.WRITE):
    size = len(addresses)
    kinds, sizes = np.full(size, kind, np.uint8), np.full(size, 8, np.uint16)
    return kinds, np.array(addresses, np.uint64), sizes


@pytest.mark.parametrize(
    "values, error, complaint",
    [
        ({"mmus": ("tdp",)}, BadChoice, "'tdp' is unknown"),
        ({"policies": ("lazy",)}, BadChoice, "'lazy'"),
        ({"guest_levels": (6,)}, BadChoice, "6 guest levels"),
        ({"host_levels": (3,)}, BadChoice, "4 or 5 levels, not 3"),
        ({"guest_pages": ("8K",)}, BadSize, "8K is no page of a guest"),
        ({"host_pages": ("4M",)}, BadSize, "4M is no host page"),
        ({"tlbs": ("64x5",)}, BadSize, "no power-of-two number of sets"),
        ({"tlbs": ("big",)}, BadChoice, "skylake"),
        ({"walk_caches": ("2",)}, BadChoice, "walk caches '2' are unknown"),
    ],
)
def test_a_value_that_no_design_takes_is_refused_before_anything_runs(values, error, complaint):
    with pytest.raises(error, match=complaint):
        Axes(**values)


def test_traces_are_told_apart_by_name_and_have_records(trace):
    with pytest.raises(BadChoice, match="two traces are called 'ls'"):
        grid([trace, trace.head(5)], Axes())
    with pytest.raises(TraceError, match="no records"):
        grid([trace.head(0)], Axes())

"""Entries judged together: what the scalar walk says of each, and where it would go on."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvmlab.hardware.batch_judge import ABSENT, LEAF, RESERVED, TABLE, judge_all
from kvmlab.hardware.batch_pages import signed
from kvmlab.hardware.fields import Switches
from kvmlab.hardware.formats import compile_tables, format_named
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.records import Verdict
from kvmlab.hardware.walker import judge

WHY = {
    Verdict.ABSENT: ABSENT,
    Verdict.RESERVED: RESERVED,
    Verdict.LEAF: LEAF,
    Verdict.TABLE: TABLE,
}
MODES = ("32-bit", "PAE", "4-level", "5-level", "EPT-4", "NPT-4")
SWITCHES = Switches(nxe=True, pse=True, keys=False, mode_based=False, accessed_dirty=True)
# Bits that decide, bits of the address (PSE-36 has some from 13 on), and a reserved one or two.
BITS = (0, 1, 2, 3, 4, 5, 7, 13, 14, 22, 30, 51, 63)


@pytest.mark.parametrize("mode", MODES)
@example([{4}, {5}], {0}, 3)  # of EPT: memory types of which one is illegal, and together none
@given(
    st.lists(st.sets(st.sampled_from(BITS)), min_size=1, max_size=4),
    st.sets(st.sampled_from(BITS)),
    st.integers(0, 4),
)
def test_many_entries_are_judged_as_each_alone(mode, several, common, depth):
    fmt = format_named(mode)
    tables = compile_tables(fmt, Processor(), SWITCHES)
    row = tables.rows[depth % len(tables.rows)]
    kept = [bit for bit in range(64) if bit < 8 * fmt.entry_bytes]
    entries = [sum(1 << bit for bit in bits | common if bit in kept) for bits in several]
    state = judge_all(tables, row, np.array([signed(one) for one in entries]))
    for n, entry in enumerate(entries):
        verdict = judge(tables, row, entry)
        assert state.why[n] == WHY[verdict]
        if verdict is Verdict.LEAF:
            assert state.base[n] == entry & row.page_address | (entry & row.page_high) << 19
        if verdict is Verdict.TABLE:
            assert state.base[n] == entry & row.table_address
        assert state.level[n] == row.level

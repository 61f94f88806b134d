"""Where each numbered fact about the balloon is a test: 63 cases and 30 bad inputs.

The facts are behaviours with numbers, measured on QEMU 7.2, Linux 6.1 and libvirt 9.0 or worked
out of their sources; the numbers stand in the tests.  Sizes are those of the fact but for these:

- where hundreds of MiB of a guest have to be touched page by page, cases 10, 11, 13 to 19 and 21
  are a 32nd or a 64th as large in the ordinary run; in the long one they are full size (21,
  whose 4 GiB were worked out, with the 1 GiB of 16); 12 is a 64th;
- 20 and 22 are a 128th of their 4 GiB;
- 25 to 27 and 34, which do not depend on the size, are in a guest of 64 MiB;
- 39 is in blocks of 2 MiB, since 128 GiB are 33 million pages.

In the guest of 10 to 22 the reserve and R are our kernel's own, so ends are bounds, not numbers.

Measured are cases 7 to 19, 23 to 27, 61 to 63 and the text of 56, and the bad inputs but 8, 15, 27
and 30, which were read in source.  Case 39 is recalled, as is the QEMU driver's text of bad input
5.  All other cases were worked out of the sources, documentation and papers that the facts name.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def named(file, *rows):
    """Number -> (file, function) for rows of (function, number, ...)."""
    return {number: (file, name) for name, *numbers in rows for number in numbers}


CASES = {
    **named(
        "test_balloon_cases.py",
        ("test_a_target_becomes_buffers_of_256_pages", 1, 2, 3, 4),
        ("test_case_5_a_target_within_a_page_leaves_the_rest_to_the_guest", 5),
        ("test_case_6_more_than_all_is_clamped_to_all", 6),
        ("test_cases_7_and_8_memtotal_shrinks_by_the_balloon_and_deflating_brings_no_memory", 7, 8),
        ("test_case_9_with_deflate_on_oom_memtotal_stays_and_memfree_falls", 9),
        ("test_cases_10_and_11_only_the_balloon_gives_back_what_the_guest_has_freed", 10, 11),
        ("test_case_12_free_page_reporting_gives_it_back_without_a_balloon", 12),
        ("test_case_23_without_a_driver_the_command_succeeds_and_nothing_moves", 23),
        ("test_case_24_a_driver_loaded_later_finds_the_target_waiting", 24),
        ("test_case_25_without_a_period_the_numbers_are_those_of_the_drivers_first_buffer", 25),
        ("test_case_26_between_polls_the_numbers_are_old", 26),
        ("test_case_27_when_polling_stops_the_last_numbers_stay", 27),
        ("test_case_30_buffers_of_256_pages_never_complete_a_huge_page", 30),
        (
            "test_case_33_while_discards_are_inhibited_the_guest_shrinks_and_the_host_gains_nothing",
            33,
        ),
        ("test_case_34_a_migrated_page_is_one_inflate_and_then_one_deflate", 34),
    ),
    **named(
        "test_balloon_reclaim.py",
        ("test_case_13_clean_cache_goes_only_as_far_as_needed_and_nothing_is_swapped", 13),
        ("test_cases_14_and_15_without_swap_it_stalls_and_only_others_are_killed", 14, 15),
        (
            "test_cases_16_17_and_21_with_swap_it_gets_there_and_what_was_swapped_stays_there",
            16,
            17,
            21,
        ),
        ("test_case_18_the_balloon_gives_back_before_anybody_is_killed", 18),
        ("test_case_19_a_target_asked_for_again_is_a_tug_of_war_that_nobody_dies_of", 19),
        ("test_case_20_what_is_in_use_without_swap_is_where_it_stalls", 20),
        ("test_case_22_only_free_memory_goes_where_there_is_enough_of_it", 22),
    ),
    **named(
        "test_server.py",
        ("test_the_two_outputs_of_the_source_text_come_line_for_line", 28),
        ("test_without_a_balloon_there_is_rss_alone_and_setmem_says_why_not", 29),
    ),
    **named(
        "kvm/test_large_leaves.py",
        ("test_one_page_of_each_block_splits_all_512_leaves_and_frees_nothing_at_first", 31),
        ("test_no_leaf_is_large_in_a_slot_that_is_not_congruent", 59),
        ("test_the_tlb_holds_the_smaller_of_both_pages", 60),
    ),
    **named(
        "host/test_huge_pages.py",
        ("test_all_pages_of_a_block_dropped_one_by_one_free_it_without_waiting", 32),
    ),
    **named(
        "management/test_placement.py",
        ("test_capacity_is_total_less_reserved_times_ratio", 35, 36),
        ("test_one_instance_larger_than_the_host_is_refused_whatever_the_ratio", 37),
        ("test_a_lower_ratio_evicts_nobody_and_refuses_what_comes_next", 38),
    ),
    **named(
        "linux/test_overcommit.py",
        ("test_with_swap_enough_the_other_half_is_swapped_and_everybody_lives", 39),
    ),
    **named(
        "management/test_managers.py",
        ("test_mom_asks_for_the_sizes_of_its_policy_file", 40, 41, 42, 43, 44, 45, 46),
        ("test_mom_takes_fourteen_rounds_from_four_gib_to_two", 47),
        ("test_an_idle_page_costs_more_shares_than_an_active_one", 48, 50),
        ("test_the_guest_with_more_shares_loses_first_if_it_idles", 49),
        ("test_the_states_begin_at_six_four_two_and_one_percent", 51),
    ),
    **named(
        "host/test_ksm.py",
        ("test_identical_pages_of_three_guests_merge_in_the_second_full_scan", 52),
        ("test_a_write_breaks_the_sharing_with_one_fault", 53),
        ("test_a_shared_page_has_at_most_max_page_sharing_mappings", 54),
        ("test_run_2_gives_every_process_its_own_copy_again", 55),
    ),
    **named(
        "host/test_hugetlb.py",
        ("test_a_second_guest_finds_the_pool_empty", 56),
    ),
    **named(
        "linux/test_hugetlb.py",
        ("test_lowering_nr_below_use_turns_the_excess_into_surplus", 57),
        ("test_overcommit_takes_pages_from_ordinary_memory_and_returns_them", 58),
    ),
    **named(
        "management/test_refusals.py",
        ("test_memory_stats_of_the_test_driver_are_made_of_its_current_memory", 61),
        ("test_sizes_are_rounded_up_to_kib", 62),
    ),
    **named("linux/test_meminfo.py", ("test_mem_available_of_the_measured_guest", 63)),
}
BAD_INPUTS = {
    **named(
        "management/test_refusals.py",
        ("test_virsh_says_it_on_stderr_and_exits_with_1", 1, 2, 3, 4, 5, 6, 7, 9, 10, 11),
        ("test_the_api_raises_it_with_its_code_and_changes_nothing", 12, 13),
        ("test_what_is_no_integer_is_a_type_error", 14),
        ("test_xml_that_asks_for_what_cannot_be_defines_nothing", 24, 25, 26),
        ("test_a_page_size_without_a_mount_is_refused", 27),
        (
            "test_a_guest_larger_than_memory_and_swap_together_is_refused_and_leaves_nothing",
            28,
        ),
        ("test_a_call_that_a_driver_does_not_have_is_named", 29),
    ),
    **named(
        "test_server.py",
        ("test_without_a_balloon_there_is_rss_alone_and_setmem_says_why_not", 8, 15),
    ),
    **named(
        "qemu/test_monitor.py",
        ("test_a_target_that_is_none_is_refused_and_changes_nothing", 16, 17, 18),
        ("test_without_a_device_there_is_no_balloon", 19),
        ("test_an_interval_that_is_none_is_refused", 20),
        ("test_there_is_but_one_balloon", 21),
        ("test_what_there_is_not_is_said", 22),
        ("test_hinting_needs_a_thread", 23),
        ("test_a_kvm_without_mmu_notifiers_has_no_balloon", 30),
    ),
}


def functions(file):
    """The names of the test functions at the top of a file; it is read, not imported."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}


MEASURED = {*range(7, 20), *range(23, 28), 61, 62, 63}
MEASURED_INPUTS = {*range(1, 31)} - {8, 15, 27, 30}
PROVENANCE = ("worked out", "calculated", "recalled", "read in", "policy file", "paper")


def unsaid(table, measured):
    """The rows that were not measured, and whose test does not say where they come from."""
    found = {}
    for number, (file, name) in table.items():
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        function = next(one for one in tree.body if getattr(one, "name", "") == name)
        said = f"{ast.get_docstring(tree)} {ast.get_docstring(function)}".lower()
        if number not in measured and not any(word in said for word in PROVENANCE):
            found[number] = (file, name)
    return found


def lost(table):
    """The rows whose function is not there."""
    return {n: row for n, row in table.items() if row[1] not in functions(row[0])}


@pytest.mark.parametrize("table, count", [(CASES, 63), (BAD_INPUTS, 30)], ids=["cases", "inputs"])
def test_every_fact_is_a_test(table, count):
    assert sorted(table) == list(range(1, count + 1))
    assert lost(table) == {}
    assert all(name.startswith("test_") for _, name in table.values())


@pytest.mark.parametrize(
    "table, measured", [(CASES, MEASURED), (BAD_INPUTS, MEASURED_INPUTS)], ids=["cases", "inputs"]
)
def test_what_was_not_measured_says_where_it_comes_from(table, measured):
    assert unsaid(table, measured) == {}


def test_a_fact_that_lost_its_test_is_seen():
    row = ("test_server.py", "test_that_nobody_wrote")
    assert lost({1: row, 2: CASES[29]}) == {1: row}
    assert unsaid({56: ("test_server.py", "test_numbers_are_as_old_as_the_last_poll")}, ()) != {}

"""An experiment reached by its deeds: done once, done anew after an undo, never half done."""

import pytest

from kvmlab.base.errors import BadChoice
from kvmlab.study.story import MOST_DEEDS, Story, Verb


class Purse:
    begun = 0

    def __init__(self, plan):
        Purse.begun += 1
        self.coins, self.deeds = plan["coins"], 0

    def put(self, coins):
        self.deeds += 1
        self.coins += coins

    def take(self, coins):
        self.deeds += 1
        self.coins -= coins  # done before it fails, as a careless engine would
        if self.coins < 0:
            raise BadChoice("no coins left")


@pytest.fixture
def story():
    Purse.begun = 0
    return Story(Purse, {"put": Verb(Purse.put, (int,)), "take": Verb(Purse.take, (int,))})


def plan(*did, coins=1):
    return {"coins": coins, "did": list(did)}


def test_what_was_done_is_not_done_again(story):
    story.reach(plan(["put", 1]))
    purse = story.reach(plan(["put", 1], ["put", 5]))
    assert (purse.coins, purse.deeds, Purse.begun) == (7, 2, 1)


def test_fewer_deeds_or_another_beginning_begin_anew(story):
    story.reach(plan(["put", 1], ["put", 5]))
    assert story.reach(plan(["put", 1])).coins == 2
    assert story.reach(plan(["put", 1], coins=10)).coins == 11
    assert Purse.begun == 3


def test_a_deed_that_fails_leaves_nothing_half_done(story):
    story.reach(plan(["put", 1]))
    with pytest.raises(BadChoice, match="no coins"):
        story.reach(plan(["put", 1], ["take", 9]))
    assert story.reach(plan(["put", 1])).coins == 2


@pytest.mark.parametrize(
    "did, words",
    [
        ([["steal", 1]], "nothing is called 'steal'; there are put, take"),
        ([["put", "1"]], r"put takes int, not \['1'\]"),
        ([["put", True]], "put takes int"),
        ([["put"]], "put takes int"),
        ([[]], "a deed is a list"),
        (["put"], "a deed is a list"),
        ([[["put"], 1]], "nothing is called"),
        ("put", "at most"),
        ([["put", 1]] * (MOST_DEEDS + 1), "at most"),
    ],
)
def test_what_is_no_deed_is_refused(story, did, words):
    with pytest.raises(BadChoice, match=words):
        story.reach({"coins": 1, "did": did})

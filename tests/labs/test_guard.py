"""An error in a callback is told in the lab, and the lab goes on."""

import pytest

from kvmlab.base.errors import BadAddress
from kvmlab.labs.guard import Notice, guarded


class Lab:
    """A lab with one callback."""

    def __init__(self):
        self.notice, self.done = Notice(), []

    @guarded
    def act(self, error=None):
        """Do something, or fail."""
        if error:
            raise error
        self.done.append("acted")


def test_what_kvmlab_refuses_is_told_in_its_one_line():
    lab = Lab()
    lab.act(BadAddress("address 'zz' <is> no address"))

    assert lab.notice.value == (
        '<div role="alert">address &#x27;zz&#x27; &lt;is&gt; no address</div>'
    )


def test_any_other_error_comes_with_details_to_copy():
    lab = Lab()
    lab.act(ZeroDivisionError("by <zero>"))

    assert "ZeroDivisionError: by &lt;zero&gt;" in lab.notice.value
    assert "<details><summary>Details to copy</summary><pre>Traceback" in lab.notice.value


def test_the_lab_goes_on_and_the_next_success_clears_the_notice():
    lab = Lab()
    lab.act(ZeroDivisionError())
    lab.act()

    assert lab.done == ["acted"]
    assert lab.notice.value == ""


def test_an_interrupt_is_no_error():
    with pytest.raises(KeyboardInterrupt):
        Lab().act(KeyboardInterrupt())


def test_its_text_is_what_it_says():
    assert repr(Notice()) == "Notice('')"

"""Files that no trace can be read from, whatever they were to hold."""

import os

import pytest

from kvmlab import workloads
from kvmlab.base.errors import TraceError


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TraceError, match=r"/none cannot be opened: No such file or directory$"):
        workloads.read(tmp_path / "none")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(TraceError, match=r"is a directory; name a trace file$"):
        workloads.read(tmp_path)


def test_an_empty_name_is_not_the_directory_that_we_are_in():
    with pytest.raises(TraceError, match=r"^a name without characters is no file; name a trace"):
        workloads.read("")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TraceError, match=r"/pipe is not a regular file$"):
        workloads.read(tmp_path / "pipe")


def test_a_name_that_no_file_can_have_is_refused_on_one_line():
    with pytest.raises(TraceError, match=r"^a\\x00\\nb cannot be opened: embedded null byte$"):
        workloads.read("a\0\nb")

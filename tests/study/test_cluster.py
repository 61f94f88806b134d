"""A sweep on Dask's executor as it is: a real cluster of processes on this machine."""

import json
import os
import signal

import pytest

from kvmlab import workloads
from kvmlab.study.grid import Axes
from kvmlab.study.sweep import sweep

distributed = pytest.importorskip("distributed")

AXES = Axes(mmus=("native", "shadow", "ept"), tlbs=("tiny", "16x4", "32x4"))
CELLS = 9


@pytest.fixture
def client(tmp_path):
    """Three workers, each a process with one thread, and nothing that listens to the outside."""
    with (
        distributed.LocalCluster(
            n_workers=3,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=tmp_path / "dask",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_worker_killed_in_the_middle_loses_no_cell_and_doubles_none(client, tmp_path):
    trace = workloads.shipped("ls").head(30_000)
    pids = client.run(os.getpid)
    assert len({*pids.values(), os.getpid()}) == 4
    killed = []

    def kill(finished, total):
        """The second cell has come back: a worker that has cells to run is killed."""
        if finished == 2 and not killed:
            busy = [worker for worker, keys in client.processing().items() if keys]
            killed.append(pids[busy[0]])
            os.kill(killed[0], signal.SIGKILL)

    journal = tmp_path / "j.jsonl"
    executor = client.get_executor()
    found = sweep([trace], AXES, executor=executor, jobs=3, journal=journal, progress=kill)

    assert killed
    assert killed[0] not in client.run(os.getpid).values()
    assert (found.failed, len(found.done)) == ([], CELLS)
    assert found == sweep([trace], AXES, jobs=1)
    cells = [json.dumps(json.loads(line)["cell"]) for line in journal.open().readlines()[1:]]
    assert len(set(cells)) == len(cells) == CELLS

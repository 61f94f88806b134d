"""What it costs to begin: importing the package, and importing the labs."""

import subprocess
import sys

TRIES = 5


def seconds(statement):
    """The best of a few fresh processes' times for one import, as each measures itself."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, check=True) for _ in range(TRIES)]
    return min(float(run.stdout) for run in runs)


def test_importing_kvmlab_takes_no_longer_than_one_and_a_half_times_numpy():
    numpy, ours = seconds("import numpy"), seconds("import kvmlab")
    assert ours <= 1.5 * numpy, f"{ours:.3f} s against {numpy:.3f} s"


def test_importing_the_labs_takes_no_longer_than_their_toolkits():
    toolkits, ours = seconds("import ipywidgets, anywidget"), seconds("from kvmlab import labs")
    assert ours <= 1.3 * toolkits, f"{ours:.3f} s against {toolkits:.3f} s"


def test_the_labs_load_no_chart_library_before_a_chart_is_drawn():
    code = (
        "import sys; from kvmlab import labs; labs.walk(); "
        "print(sorted({'bqplot', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

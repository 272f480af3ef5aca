"""Threads that share warnings' filters and the limits of BLAS, which belong to the whole process."""

import subprocess
import sys
import threading
import warnings

from embedsvc.threads import each, silenced


def test_each_keeps_the_order():
    assert each(lambda item: item**2, range(20)) == [item**2 for item in range(20)]


def test_what_is_silenced_is_silent_until_the_last_thread_is_done():
    before = list(warnings.filters)
    entered, left = threading.Event(), threading.Event()

    def other():
        with silenced(FutureWarning):
            entered.set()
            left.wait(10)
            warnings.warn("told under the filter of the first", UserWarning, stacklevel=1)

    with silenced(UserWarning):
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait(10)
        warnings.warn("told", UserWarning, stacklevel=1)
    left.set()
    thread.join()
    assert warnings.filters == before


def test_a_module_is_silenced_by_its_name():
    with silenced(module=r".*test_threads"), warnings.catch_warnings(record=True) as caught:
        warnings.warn("told", UserWarning, stacklevel=1)
    assert not caught


def test_a_library_that_is_loaded_later_has_one_thread_as_well():
    script = (
        "import numpy; from threadpoolctl import threadpool_info; from embedsvc.threads import one_thread\n"
        "with one_thread(): pass\n"
        "import sklearn.cluster\n"
        "before = threadpool_info()\n"
        "with one_thread(): within = threadpool_info()\n"
        "assert {pool['user_api'] for pool in within} == {'blas', 'openmp'}, within\n"
        "assert {pool['num_threads'] for pool in within} == {1}, within\n"
        "assert threadpool_info() == before\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

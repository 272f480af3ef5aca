"""Which tests share a worker, and who begins first, when pytest-xdist runs them side by side.

Tests of a file share fixtures, and so a worker; each encoder of the contracts is a group of its own. (The marks that
`--dist loadgroup` goes by reach it no more: pytest 9 keeps them out of the names of tests.)
"""

from xdist.scheduler import LoadScopeScheduling

__all__ = ["Groups", "group", "place"]

# Files that share what is costly to make: compiled UMAP and NN-descent, recordings of TensorFlow 1's own wrapper.
_TOGETHER = {
    "tests/test_knn.py": "numba",
    "tests/test_umaps.py": "numba",
    "tests/models/recurrent/test_cells.py": "recurrent oracle",
    "tests/models/recurrent/test_question_tables.py": "recurrent oracle",
}
# The longest, longest first: what is left for the end should be short, or a worker waits for another.
_LONG = (
    *("tests/training/test_kills.py", "tests/jobs/test_faults.py", "tests/jobs/test_ray.py"),
    *("numba", "tests/cli/test_without_tensorflow.py", "tests/test_store.py", "tests/models/test_savedmodel.py"),
    *("tests/reporting/test_report.py", "tests/reporting/test_constructed.py", "tests/models/test_hub.py"),
    *("tests/training/test_run.py", "tests/models/test_keyed_cells.py", "tests/reporting/test_page.py"),
)


def group(nodeid: str) -> str:
    """The group of a test: "contract encoder savedmodel", or the test's file."""
    path, _, test = nodeid.partition("::")
    if path == "tests/contracts/test_encoders.py":
        return f"{path} {test.partition('[')[2].rstrip(']').partition('-')[0]}"
    return _TOGETHER.get(path, path)


def place(nodeid: str) -> int:
    """Where the group of a test stands in the queue."""
    name = group(nodeid)
    return _LONG.index(name) if name in _LONG else len(_LONG)


class Groups(LoadScopeScheduling):
    """Hands out one group at a time, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)

"""Imports go downward only, and nothing heavy is loaded before it is needed."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import util
from pathlib import Path

import pytest

import embedsvc
from tests.models.tiny_bert import make_tensors, write_folder

PACKAGE = Path(embedsvc.__file__).parent

# From the top down: a module may import those of its own layer and of the layers below. A folder is one entry.
LAYERS = {
    "doors": {"__init__", "__main__", "cli", "service", "sklearn"},
    "jobs": {"jobs"},
    "reports": {"reporting", "exporting"},
    "verbs": {
        *("extraction", "comparison", "clustering", "probing", "projection", "uncertainty", "retrieval"),
        *("inspection", "training"),
    },
    "what verbs work with": {
        *("models", "texts", "settings", "streaming", "batching", "catalog", "fetching", "datasets", "sdists", "head"),
        *("arrow", "manifest", "schema", "parts", "store", "stored", "columns", "embeddings", "formats"),
        *("metrics", "moments", "simulation"),
        *("resampling", "permutations", "figures", "sides", "shared", "comparisons"),
        *(
            "agreement",
            "clusterers",
            "kmeans",
            "clusters",
            "pca",
            "probes",
            "projectors",
            "map_quality",
            "scores",
            "tallies",
            "umaps",
            "variants",
        ),
        *("plots", "diagnosis"),
        *("variability", "joining"),
    },
    "foundations": {
        *("masks", "processes", "storage", "registry", "knn", "graphs", "nearest", "ranks", "theory", "vectors"),
        *("losses", "colors", "results", "threads", "occupancy", "machine"),
    },
    "values": {"types"},
    "errors": {"errors"},
}
HEIGHT = {name: -at for at, names in enumerate(LAYERS.values()) for name in names}

TENSORFLOW = {
    *("tensorflow", "tensorflow_hub", "tensorflow_text", "tf_keras", "keras", "keras_hub", "h5py", "tensorboard"),
}
# What a command that needs no model must not load, since it takes seconds.
HEAVY = TENSORFLOW | {"umap", "numba", "pandas", "sklearn", "scipy", "torch", "transformers", "polars", "duckdb"}

SOURCES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def entry(path: Path) -> str:
    """What the layers call a source file: the module, or the folder it is in."""
    return path.parts[0].removesuffix(".py")


def imports(path: Path, *, registered: bool = True) -> Iterator[tuple[int, str]]:
    """Line and absolute name of all that a source imports, inside functions too, or registers as "module:attribute"."""
    package = ("embedsvc", *path.parts[:-1])
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # `from embedsvc import masks` imports a module, `from embedsvc import load_model` a name of the package.
            for name in node.names:
                yield node.lineno, f"{module}.{name.name}"
        elif registered and isinstance(node, ast.Constant) and re.fullmatch(r"embedsvc(\.\w+)+:\w+", str(node.value)):
            yield node.lineno, str(node.value).replace(":", ".")


def own_imports(path: Path, *, registered: bool = True) -> Iterator[tuple[int, str]]:
    """Line and entry of what a source imports from embedsvc, with or without what it registers by name."""
    for line, name in imports(path, registered=registered):
        parts = name.split(".")
        if parts[0] == "embedsvc":
            inner = parts[1] if len(parts) > 1 else "__init__"
            is_module = (PACKAGE / inner).is_dir() or (PACKAGE / f"{inner}.py").exists()
            yield line, inner if is_module else "__init__"


def test_every_module_has_its_layer():
    unknown = sorted({entry(path) for path in SOURCES} - HEIGHT.keys())
    assert not unknown, (
        f"give {', '.join(unknown)} a layer in LAYERS of {Path(__file__).name}, as low as its imports allow"
    )


def test_no_layer_names_a_module_that_is_gone():
    assert not HEIGHT.keys() - {entry(path) for path in SOURCES}


def named_in_the_architecture() -> set[str]:
    """What docs/architecture.md puts between backticks and is a module, `x.py`, or a folder, `x/`."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    return set(re.findall(r"`((?:\w+/)*\w+(?:\.py|/))`", page))


def test_the_architecture_names_every_module_and_folder():
    folders = {f"{path.parent.name}/" for path in SOURCES if path.parent.name}
    modules = {path.name for path in SOURCES if len(path.parts) == 1}
    missing = sorted((folders | modules) - named_in_the_architecture())
    assert not missing, f"say in docs/architecture.md which question {', '.join(missing)} answers"


def test_the_architecture_names_nothing_that_is_gone():
    every = [path for folder in (PACKAGE, PACKAGE.parent / "tests") for path in (folder, *folder.rglob("*"))]
    known = {path.as_posix() + "/" * path.is_dir() for path in every}
    gone = sorted(
        name for name in named_in_the_architecture() if not any(f"/{path}".endswith(f"/{name}") for path in known)
    )
    assert not gone, f"docs/architecture.md names {', '.join(gone)}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_go_downward_only(path):
    upward = [
        f"{path}:{line} imports {other}"
        for line, other in own_imports(path)
        if HEIGHT.get(other, 0) > HEIGHT.get(entry(path), 0)
    ]
    assert not upward


def test_no_imports_go_in_a_circle():
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        # What a registry names is imported when it is asked for, and may well import the registry's types.
        others = {other for _, other in own_imports(path, registered=False)} - {entry(path)}
        graph.setdefault(entry(path), set()).update(others)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_parser_sees_imports_wherever_they_are():
    """On a file known to hold each kind, or the tests above would pass for nothing."""
    load = {name for _, name in imports(Path("models/load.py"))}
    assert "embedsvc.registry.Registry" in load, "at the top"
    assert "embedsvc.catalog" in load, "inside a function"
    assert "embedsvc.models.huggingface.load" in load, "as module:attribute"
    extraction = {name for _, name in imports(Path("extraction.py"))}
    assert "embedsvc.models.base.LoadOptions" in extraction, "under TYPE_CHECKING"
    assert {other for _, other in own_imports(Path("__init__.py"))} >= {"models", "types", "texts"}


def test_tensorflow_is_imported_by_models_only():
    found = [
        f"{path}:{line} imports {name}"
        for path in SOURCES
        if entry(path) != "models"
        for line, name in imports(path)
        if name.split(".")[0] in TENSORFLOW
    ]
    assert not found


# --- what a fresh interpreter loads ---

_RUN = """
import sys
from embedsvc.cli import main
code = None
try:
    main()
except SystemExit as exit:
    code = exit.code
import json
names = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"code": code, "modules": names}), file=sys.stderr)
"""


def loaded_by(*arguments: str) -> set[str]:
    """Top-level modules that a command loads; it must succeed, and print only to stdout."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], capture_output=True, encoding="utf-8", check=True, timeout=120
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    told = json.loads(lines[0])
    assert told["code"] in (0, None), done.stderr
    assert done.stdout.strip()
    return set(told["modules"])


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("set")
    (folder / "texts.txt").write_text("good morning\ngood night\n", encoding="utf-8")
    embedsvc.extract_files([str(folder / "texts.txt")], str(folder / "out.parquet"), model="fake:8")
    return str(folder / "out.parquet")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["extract", "--help"], ["show", "--help"]])
def test_help_loads_neither_numpy_nor_pyarrow(arguments):
    loaded = loaded_by(*arguments)
    assert "click" in loaded, "the list is that of the command"
    assert not loaded & (HEAVY | {"numpy", "pyarrow", "tokenizers", "safetensors", "rich"})


def test_models_loads_nothing_heavy():
    assert not loaded_by("models") & (HEAVY | {"pyarrow", "tokenizers"})


def test_doctor_loads_nothing_heavy():
    """It must work where TensorFlow does not."""
    assert not loaded_by("doctor") & (HEAVY | {"pyarrow", "tokenizers"})


def test_show_loads_nothing_heavy(small_set):
    loaded = loaded_by("show", small_set)
    assert "pyarrow" in loaded
    assert not loaded & (HEAVY | {"tokenizers"})


def test_extract_with_the_numpy_encoder_loads_nothing_heavy(tmp_path):
    (tmp_path / "texts.txt").write_text("good morning\n", encoding="utf-8")
    arguments = ["extract", str(tmp_path / "texts.txt"), "-o", str(tmp_path / "out.parquet"), "-m", "fake:", "-q"]
    # pyarrow's to_numpy imports pandas where it is installed, which only our tests ask for.
    assert not loaded_by(*arguments) & (HEAVY - {"pandas"})


@pytest.mark.skipif(
    util.find_spec("openvino") is None, reason="openvino is not installed: pip install 'embedsvc[openvino]'"
)
def test_extract_with_a_bert_on_openvino_loads_nothing_heavy(tmp_path):
    """Or ten lines would take as long as importing TensorFlow does."""
    model = write_folder(tmp_path / "model", make_tensors(n_classes=3))
    (tmp_path / "texts.txt").write_text("the film was good\n" * 10, encoding="utf-8")
    arguments = ["extract", str(tmp_path / "texts.txt"), "-o", str(tmp_path / "out.parquet"), "-m", str(model), "-q"]
    loaded = loaded_by(*arguments)
    assert "openvino" in loaded
    assert not loaded & (HEAVY - {"pandas"})


def test_importing_the_package_loads_nothing_of_others():
    code = "import sys; before = set(sys.modules); import embedsvc; dir(embedsvc); print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - set(sys.stdlib_module_names) == {"embedsvc"}

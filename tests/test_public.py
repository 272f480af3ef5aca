import inspect
import subprocess
import sys
from importlib import import_module

import pytest

import embedsvc

# What we promise to users: adding a name here is a decision, and taking one away breaks somebody.
PROMISED = [
    "Block",
    "EmbeddingSet",
    "EmbedsvcError",
    "Encoder",
    "Forward",
    "Head",
    "LoadOptions",
    "Manifest",
    "Mode",
    "ModelSpec",
    "Pass",
    "ReadOptions",
    "Settings",
    "Summary",
    "Text",
    "Variant",
    "cluster",
    "compare",
    "export",
    "extract",
    "extract_files",
    "forward",
    "inspect",
    "load_model",
    "neighbors",
    "probe",
    "project",
    "report",
    "stability",
    "train",
]


def test_the_public_names_are_the_promised_ones():
    assert embedsvc.__all__ == PROMISED
    assert sorted(PROMISED) == PROMISED
    assert len(PROMISED) <= 30, "a smaller public surface is a feature"


@pytest.mark.parametrize("name", PROMISED)
def test_a_public_name_is_there_and_documented(name):
    value = getattr(embedsvc, name)
    assert value.__name__ == name
    assert value.__module__.startswith("embedsvc.")
    assert inspect.getdoc(value)


@pytest.mark.parametrize("name", PROMISED)
def test_a_public_name_is_exported_by_its_module_too(name):
    module = import_module(getattr(embedsvc, name).__module__)
    assert name in module.__all__


def test_type_checkers_are_told_the_same_names():
    """They do not run __getattr__; they read the imports under TYPE_CHECKING."""
    source = inspect.getsource(embedsvc)
    block = source.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
    told = {}
    for line in block.splitlines():
        module, _, names = line.strip().removeprefix("from ").partition(" import ")
        told |= dict.fromkeys(names.split(", "), module.removeprefix("embedsvc."))
    assert told == embedsvc._PUBLIC


def test_dir_lists_the_public_names():
    assert set(PROMISED) <= set(dir(embedsvc))


def test_star_import_gives_the_public_names():
    names: dict[str, object] = {}
    exec("from embedsvc import *", names)
    assert set(PROMISED) <= names.keys()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'embedsvc' has no attribute 'extarct'"):
        _ = embedsvc.extarct
    assert not hasattr(embedsvc, "extarct")


def test_no_module_stands_in_the_way_of_a_public_name():
    """A submodule, once imported, becomes an attribute of the package and would hide a function of its name."""
    code = """
import importlib, pkgutil, types
import embedsvc
for module in pkgutil.walk_packages(embedsvc.__path__, "embedsvc."):
    if not module.name.startswith("embedsvc.models.") and module.name != "embedsvc.__main__":
        importlib.import_module(module.name)
print([name for name in embedsvc.__all__ if isinstance(getattr(embedsvc, name), types.ModuleType)])
print(embedsvc.extract.__module__, embedsvc.extract.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\nembedsvc.extraction extract\n"

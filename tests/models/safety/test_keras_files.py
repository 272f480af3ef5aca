"""Keras archives and HDF5: most are made by hand, since a hostile file needs no Keras to be written."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from embedsvc.errors import ModelFormatError, UnsafeModelError
from embedsvc.models.safety import check_keras_archive, check_keras_h5, check_keras_weights, keras_files


def layer(class_name: str, module: str | None = "keras.layers", name: str = "x", **config: object) -> dict[str, object]:
    made = {"class_name": class_name, "config": {"name": name, **config}, "registered_name": None}
    return made if module is None else {**made, "module": module}


def function(name: str, module: str = "builtins") -> dict[str, object]:
    return {"class_name": "function", "config": name, "module": module, "registered_name": "function"}


def model_of(*layers: object) -> dict[str, object]:
    return layer("Functional", "keras.src.models.functional", "model", layers=[*layers])


def weights(write=lambda file: None) -> bytes:
    """An HDF5 file in memory."""
    packed = io.BytesIO()
    with h5py.File(packed, "w") as file:
        file["layers/dense/vars/0"] = np.ones((2, 2))
        write(file)
    return packed.getvalue()


def write_archive(path: Path, config: object, members: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        for name, content in ({"model.weights.h5": weights()} | (members or {})).items():
            archive.writestr(name, content)
    return path


def write_h5(path: Path, config: object, write=lambda file: None) -> Path:
    path.write_bytes(weights(lambda file: (file.attrs.update({"model_config": json.dumps(config)}), write(file))))
    return path


HONEST = {
    "plain layers": layer("Dropout", rate=0.1),
    "an initializer": layer("Dense", kernel_initializer=layer("GlorotUniform", "keras.initializers", seed=None)),
    "a built-in function": layer("Activation", activation=function("gelu")),
    "a function of keras.ops": layer("Activation", activation=function("tanh", "keras.ops")),
    "an operation": layer("Add", "keras.src.ops.numpy"),
    "keras-hub": layer("BertBackbone", "keras_hub.src.models.bert.bert_backbone"),
    "tf_keras": layer("Functional", "tf_keras.src.engine.functional"),
    "a dtype policy": layer("Dense", dtype=layer("DTypePolicy", "keras", "float32")),
    "a vocabulary of words": layer("TextVectorization", vocabulary=["good", "bad"]),
    "no module, as older files have it": layer("MyOwnLayer", None),
    "a recorded TensorFlow call": layer("TFOpLambda", "keras.layers", function="math.multiply"),
    "a bare TensorFlow call": layer("TFOpLambda", None, function="expand_dims"),
    "a slice": layer("SlicingOpLambda", None, function="__operators__.getitem"),
    "an old TensorFlow call": layer("TFOpLambda", None, function="compat.v1.nn.softmax_v2"),
    "a tuple": {"class_name": "__tuple__", "items": [1]},
    "a tensor": {"class_name": "__keras_tensor__", "config": {"shape": [None, 2]}},
    "a type": {"class_name": "__typespec__", "spec_name": "TensorSpec", "module": "tensorflow.python.framework.tensor"},
}

HOSTILE = {
    "Lambda": (layer("Lambda", name="evil"), "class Lambda carries Python bytecode .layer 'evil'"),
    "an older Lambda": (layer("Lambda", None, function_type="lambda"), "Lambda"),
    "Lambda by another way": (layer("layers.Lambda", "keras"), "Lambda"),
    "Lambda by its registered name": (layer("Dense") | {"registered_name": "pack>Lambda"}, "Lambda"),
    "a lambda": (layer("Dense", activation={"class_name": "__lambda__", "config": {"value": "4wAA"}}), "__lambda__"),
    "a lambda as bytecode": (layer("Dense", function_type="lambda"), "lambda"),
    "another module's class": (layer("Popen", "subprocess"), "the class 'Popen' comes from 'subprocess'"),
    "another module's function": (layer("Dense", activation=function("system", "os")), "the function 'system'"),
    "Python's own function": (layer("Dense", activation=function("eval")), "'eval' is Python's own"),
    "another module's activation": (
        layer("Dense", activation=function("relu", "evil.activations")),
        "the function 'relu'",
    ),
    "what is no layer of Keras": (layer("CSVLogger", "keras.callbacks", filename="/tmp/x"), "'CSVLogger'"),
    "a custom layer": (layer("Own", "my_package", "own"), "the class 'Own' comes from 'my_package'.*layer 'own'"),
    "a download": (layer("Dense", activation=function("get_file", "keras.utils")), "get_file"),
    "a download by another way": (layer("Dense", activation=function("utils.get_file", "keras")), "get_file"),
    "a loader as a class": (layer("load_model", "keras.models"), "load_model"),
    "a loader as a function": (layer("Dense", activation=function("load_model", "keras.models")), "load_model"),
    "a package that looks like Keras": (layer("Dense", "keras_evil.layers"), "keras_evil"),
    "another SavedModel": (layer("TFSMLayer", filepath="/tmp/x"), "loads another SavedModel"),
    "a hub layer": (layer("KerasLayer", None, handle="/tmp/x"), "loads another SavedModel"),
    "a torch pickle": (layer("TorchModuleWrapper"), "pickle"),
    "a file as vocabulary": (layer("StringLookup", vocabulary="/etc/passwd"), "from the file '/etc/passwd'"),
    "a TensorFlow op": (layer("TensorFlowOpLayer", None, node_def="{}"), "TensorFlow op"),
    "a TensorFlow file call": (layer("TFOpLambda", None, function="io.write_file"), "'io.write_file'"),
    "a TensorFlow loader": (layer("TFOpLambda", None, function="saved_model.load"), "'saved_model.load'"),
    "an old file call": (layer("TFOpLambda", None, function="compat.v1.write_file"), "write_file"),
    "a Python call": (layer("TFOpLambda", "tf_keras.layers", function="py_function"), "py_function"),
    "a raw op": (layer("TFOpLambda", None, function="raw_ops.ReadFile"), "ReadFile"),
    "a call by another way": (layer("layers.TFOpLambda", "tf_keras", function="io.read_file"), "read_file"),
    "a download as a call": (layer("TFOpLambda", None, function="keras.utils.get_file"), "get_file"),
    "a class's method": (layer("ClassMethod", None, cls_symbol="io.gfile.GFile", method_name="read"), "GFile"),
    "a hidden attribute": (layer("InstanceMethod", None, attr_name="__class__"), "__class__"),
    "a foreign type": (
        {"class_name": "__typespec__", "spec_name": "Popen", "module": "subprocess", "config": []},
        "'Popen' comes from 'subprocess'",
    ),
    "another module's type": (
        {"class_name": "__typespec__", "spec_name": "EvilSpec", "module": "evil", "config": []},
        "'EvilSpec' comes from 'evil'",
    ),
    "a jsonpickle object": ({"py/reduce": [{"py/type": "os.system"}]}, "py/reduce"),
    "a class that is no name": ({"class_name": ["Lambda"], "config": {}}, "is no name"),
}


@pytest.mark.parametrize("config", HONEST.values(), ids=HONEST)
def test_honest_configurations_pass_in_both_formats(tmp_path, config):
    check_keras_archive(write_archive(tmp_path / "m.keras", model_of(layer("Dense"), config)))
    check_keras_h5(write_h5(tmp_path / "m.h5", model_of(layer("Dense"), config)))


@pytest.mark.parametrize(("config", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_configurations_are_refused_in_both_formats_unless_trusted(tmp_path, config, message):
    # Two models deep, behind honest layers.
    whole = model_of(layer("Dense"), model_of(layer("Dropout"), layer("TimeDistributed", layer=config)))
    archive, h5 = write_archive(tmp_path / "m.keras", whole), write_h5(tmp_path / "m.h5", whole)
    with pytest.raises(UnsafeModelError, match=message) as caught:
        check_keras_archive(archive)
    assert "--trust-model" in caught.value.hint
    with pytest.raises(UnsafeModelError, match=message):
        check_keras_h5(h5)
    check_keras_archive(archive, trust=True)
    check_keras_h5(h5, trust=True)


def test_what_only_training_needs_is_not_looked_at_in_the_outermost_model(tmp_path):
    custom = {"optimizer": layer("AdamWeightDecay", "official.nlp.optimization")}
    check_keras_archive(write_archive(tmp_path / "m.keras", model_of(layer("Dense")) | {"compile_config": custom}))
    inner = model_of(layer("Dense")) | {"compile_config": custom}
    with pytest.raises(UnsafeModelError, match="AdamWeightDecay"):
        check_keras_archive(write_archive(tmp_path / "n.keras", model_of(inner)))


@pytest.mark.parametrize(
    ("config", "message"),
    [('{"class_name": "Func', "torn"), ("[" * 200_000, "torn"), ("\udcff".encode("utf-8", "surrogatepass"), "torn")],
)
def test_a_configuration_that_is_no_json_is_an_error(tmp_path, config, message):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("config.json", config)
    (tmp_path / "m.keras").write_bytes(packed.getvalue())
    with pytest.raises(ModelFormatError, match=message):
        check_keras_archive(tmp_path / "m.keras")


def test_a_deep_configuration_is_walked_without_recursion(tmp_path):
    config: object = layer("Lambda", name="deep")
    for _ in range(300):
        config = {"config": [config]}
    with pytest.raises(UnsafeModelError, match="deep"):
        check_keras_archive(write_archive(tmp_path / "m.keras", config))


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "assets/../../evil", "assets\\..\\evil", "C:evil"])
@pytest.mark.parametrize("trust", [False, True])
def test_members_that_climb_out_are_refused_even_if_trusted(tmp_path, name, trust):
    path = write_archive(tmp_path / "m.keras", model_of(), {name: b""})
    with pytest.raises(ModelFormatError, match="points out of the archive"):
        check_keras_archive(path, trust=trust)


def test_a_symbolic_link_in_an_archive_is_refused(tmp_path):
    path = write_archive(tmp_path / "m.keras", model_of())
    link = zipfile.ZipInfo("assets/vocabulary.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ModelFormatError, match="points out"):
        check_keras_archive(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = write_archive(tmp_path / "m.keras", model_of())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", json.dumps(layer("Lambda")))
    with pytest.raises(ModelFormatError, match="two members of the same name"):
        check_keras_archive(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(model_of()))
        archive.writestr("model.weights.h5", bytes(100 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ModelFormatError, match=r"'model\.weights\.h5' unpacks from .* to 104,857,600 bytes"):
        check_keras_archive(path)


def test_an_absurd_declared_size_is_refused(tmp_path):
    path = write_archive(tmp_path / "m.keras", model_of())
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 0xF0000000)  # uncompressed size of the last member
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match="unpacks from"):
        check_keras_archive(path)


def test_members_that_overlap_are_refused(tmp_path):
    path = write_archive(tmp_path / "m.keras", model_of())
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", len(content), len(content))
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match="overlap"):
        check_keras_archive(path)


def test_too_many_members_and_too_large_a_configuration_are_refused(tmp_path, monkeypatch):
    path = write_archive(tmp_path / "m.keras", model_of())
    monkeypatch.setattr(keras_files, "_MAX_CONFIG", 10)
    with pytest.raises(ModelFormatError, match=r"config\.json has .* bytes, expected at most 10"):
        check_keras_archive(path)
    monkeypatch.setattr(keras_files, "_MAX_MEMBERS", 2)
    with pytest.raises(ModelFormatError, match="has 3 members, expected at most 2"):
        check_keras_archive(path)


@pytest.mark.parametrize("name", ["model.weights.npz", "assets/state.pkl", "x.pt"])
def test_pickles_in_an_archive_are_refused(tmp_path, name):
    with pytest.raises(UnsafeModelError, match=f"{name}, which may be a pickle"):
        check_keras_archive(write_archive(tmp_path / "m.keras", model_of(), {name: b"x"}))


def test_a_foreign_zip_lists_what_it_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("word/document.xml", "")
    with pytest.raises(ModelFormatError, match=r"no config\.json, found word/document\.xml"):
        check_keras_archive(tmp_path / "m.keras")


def test_a_foreign_file_shows_how_it_begins(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"\x89HDF something")
    with pytest.raises(ModelFormatError, match="14 bytes that begin b'.x89HDF"):
        check_keras_archive(tmp_path / "m.keras")
    with pytest.raises(ModelFormatError, match="cannot be read"):
        check_keras_archive(tmp_path / "nowhere.keras")


def test_a_torn_archive_is_noticed_wherever_it_ends(tmp_path):
    path = write_archive(tmp_path / "m.keras", model_of(layer("Dense")))
    whole = path.read_bytes()
    for size in range(0, len(whole), 41):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFormatError):
            check_keras_archive(path)


def test_an_archive_with_torn_weights_is_noticed(tmp_path):
    path = write_archive(tmp_path / "m.keras", model_of(), {"model.weights.h5": weights()[:900]})
    with pytest.raises(ModelFormatError, match="cannot be read as a Keras model"):
        check_keras_archive(path)


def test_a_flipped_byte_in_an_archive_is_noticed(tmp_path):
    path = write_archive(tmp_path / "m.keras", model_of(layer("Dense", name="a_layer")))
    path.write_bytes(path.read_bytes().replace(b"a_layer", b"b_layer"))
    with pytest.raises(ModelFormatError, match="CRC"):
        check_keras_archive(path)


def test_a_torn_h5_is_noticed_wherever_it_ends(tmp_path):
    path = write_h5(tmp_path / "m.h5", model_of(layer("Dense")))
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        for check in (check_keras_h5, check_keras_weights):
            with pytest.raises(ModelFormatError):
                check(path)


def test_weights_alone_pass_as_weights_but_are_no_model(tmp_path):
    (tmp_path / "m.h5").write_bytes(weights())
    check_keras_weights(tmp_path / "m.h5")
    with pytest.raises(ModelFormatError, match="model_config is missing"):
        check_keras_h5(tmp_path / "m.h5")


def external_link(file):
    file["layers/evil"] = h5py.ExternalLink("/etc/other.h5", "/secret")


def external_storage(file):
    file.create_dataset("layers/evil", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def virtual_dataset(file):
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "secret", (4,))
    file.create_virtual_dataset("layers/evil", layout)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (external_link, "'/layers/evil' is a link to '/secret' in the file '/etc/other.h5'"),
        (external_storage, "'/layers/evil' are read from another file"),
        (virtual_dataset, "'/layers/evil' are read from another file"),
    ],
)
def test_hdf5_that_reaches_into_other_files_is_refused(tmp_path, write, message):
    h5 = write_h5(tmp_path / "m.h5", model_of(), write)
    archive = write_archive(tmp_path / "m.keras", model_of(), {"model.weights.h5": weights(write)})
    alone = tmp_path / "model.weights.h5"
    alone.write_bytes(weights(write))
    for check, path in ((check_keras_h5, h5), (check_keras_archive, archive), (check_keras_weights, alone)):
        with pytest.raises(UnsafeModelError, match=message):
            check(path)
        check(path, trust=True)


def test_links_within_the_file_pass_even_in_a_ring(tmp_path):
    def ring(file):
        file["layers/again"] = file["layers"]
        file["layers/soft"] = h5py.SoftLink("/layers/dense")
        file["layers/dangling"] = h5py.SoftLink("/nowhere")

    check_keras_h5(write_h5(tmp_path / "m.h5", model_of(), ring))


def test_a_soft_link_does_not_hide_an_external_one(tmp_path):
    def both(file):
        external_link(file)
        file["layers/dense/kernel"] = h5py.SoftLink("/layers/evil")

    with pytest.raises(UnsafeModelError, match=r"other\.h5"):
        check_keras_h5(write_h5(tmp_path / "m.h5", model_of(), both))


# --- files that Keras itself wrote ---


def small_model(keras, *middle):
    return keras.Sequential([keras.Input((3,)), *middle, keras.layers.Dropout(0.1), keras.layers.Dense(2)])


@pytest.mark.tensorflow
@pytest.mark.parametrize("package", ["keras", "tf_keras"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_what_keras_wrote_passes_and_its_lambda_does_not(tmp_path, package):
    keras = pytest.importorskip(package)
    trace = tmp_path / "executed"

    def leave_trace(x, path=str(trace)):
        with open(path, "w") as file:
            file.write("executed")
        return x

    honest = small_model(keras, keras.layers.Dense(4, activation="gelu", kernel_regularizer="l2"))
    honest.compile("adam", "mse")
    hostile = small_model(keras, keras.layers.Lambda(leave_trace, name="evil"))
    for name, check in (("m.keras", check_keras_archive), ("m.h5", check_keras_h5)):
        honest.save(tmp_path / name)
        check(tmp_path / name)
        hostile.save(tmp_path / f"evil-{name}")
        trace.unlink(missing_ok=True)  # building the model ran it; checking must not
        with pytest.raises(UnsafeModelError, match="Lambda carries Python bytecode .layer 'evil'"):
            check(tmp_path / f"evil-{name}")
        assert not trace.exists()

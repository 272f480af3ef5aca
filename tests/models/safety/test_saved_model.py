"""SavedModels: honest ones exported here, and hostile ones, most of them made by editing an honest graph."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from embedsvc.errors import ModelFormatError, UnsafeModelError
from embedsvc.models.safety import operations, saved_model, scan_saved_model

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A text model with weights, a vocabulary file and tensorflow_text's ops."""
    import tensorflow as tf
    import tensorflow_text

    folder = tmp_path_factory.mktemp("exported")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad"]))
    index = tf.lookup.TextFileIndex
    source = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)

    class Model(tf.Module):
        def __init__(self):
            self.tokenizer = tensorflow_text.BertTokenizer(tf.lookup.StaticVocabularyTable(source, 1))
            self.weights = tf.Variable(tf.ones((8, 3)))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts):
            ids = self.tokenizer.tokenize(texts).merge_dims(1, 2).to_tensor()
            return tf.reduce_mean(tf.nn.embedding_lookup(self.weights, ids), 1)

    tf.saved_model.save(Model(), str(folder / "model"))
    return folder / "model"


@pytest.fixture
def folder(exported, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(exported, tmp_path / "model"))


def edit(folder, change):
    """Apply `change` to the first meta graph; gives what it gives."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    model.ParseFromString(path.read_bytes())
    given = change(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())
    return given


def function_like(meta_graph, part):
    """The one function whose name holds `part`."""
    (found,) = [fn for fn in meta_graph.graph_def.library.function if part in fn.signature.name]
    return found


def call_to(meta_graph, function):
    """The one node of the main graph that calls a function."""
    (found,) = [node for node in meta_graph.graph_def.node if node.attr["f"].func.name == function.signature.name]
    return found


def node_of(body, op):
    (found,) = [node for node in body.node_def if node.op == op]
    return found


def check_refused(folder, *parts):
    """The folder is refused, with all these parts in the message, unless it is trusted."""
    with pytest.raises(UnsafeModelError) as caught:
        scan_saved_model(folder)
    for part in parts:
        assert part in caught.value.problem
    assert "--trust-model" in caught.value.hint
    scan_saved_model(folder, trust=True)


# --- honest models ---


def test_a_text_model_with_a_vocabulary_passes(exported):
    scan_saved_model(exported)


def test_a_model_of_tf_keras_passes(tmp_path):
    import tensorflow as tf
    import tf_keras

    texts = tf_keras.Input((), dtype="string")
    words = tf_keras.layers.TextVectorization(output_sequence_length=4)
    words.adapt(tf.constant(["a good film", "a bad film"]))
    x = tf_keras.layers.Embedding(10, 4, mask_zero=True)(words(texts))
    x = tf_keras.layers.Dropout(0.1)(tf_keras.layers.GlobalAveragePooling1D()(x))
    model = tf_keras.Model(texts, tf_keras.layers.Dense(2, activation="tanh")(x))
    model.compile("adam", "mse")
    model.save(tmp_path / "model", save_format="tf")
    scan_saved_model(tmp_path / "model")


def test_a_model_of_tensorflow_1_passes(exported, tmp_path):
    import tensorflow as tf

    v1 = tf.compat.v1
    vocabulary = str(next((exported / "assets").iterdir()))
    with tf.Graph().as_default(), v1.Session() as session:
        texts = v1.placeholder(tf.string, [None])
        index = tf.lookup.TextFileIndex
        source = tf.lookup.TextFileInitializer(vocabulary, tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)
        table = tf.lookup.StaticHashTable(source, 0)
        weights = v1.get_variable("weights", (8, 3))
        vectors = tf.nn.embedding_lookup(weights, table.lookup(texts))
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(tmp_path / "model"))
        signature = v1.saved_model.predict_signature_def({"texts": texts}, {"vectors": vectors})
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={"serving_default": signature},
            assets_collection=v1.get_collection("asset_filepaths"),
            main_op=v1.tables_initializer(),
        )
        builder.save()
    folder = tmp_path / "model"
    scan_saved_model(folder)

    def run_the_saver_on_loading(meta_graph):
        meta_graph.collection_def["saved_model_main_op"].node_list.value[:] = ["save/restore_all"]

    edit(folder, run_the_saver_on_loading)
    check_refused(folder, "RestoreV2", "outside the model's own saver")


# --- models that would do something ---


def traced(tmp_path, body):
    """Export a model whose inner function calls `body`, one level below the signature."""
    import tensorflow as tf

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def __call__(self, x):
            return self.inner(x) * 2.0

        @tf.function
        def inner(self, x):
            return tf.cond(tf.reduce_sum(x) > -1e9, lambda: body(x), lambda: x)

    tf.saved_model.save(Model(), str(tmp_path / "model"))
    return tmp_path / "model"


def writes(path):
    import tensorflow as tf

    def body(x):
        with tf.control_dependencies([tf.io.write_file(path, "executed")]):
            return tf.identity(x)

    return body


def calls_python(path):
    import tensorflow as tf

    return lambda x: tf.ensure_shape(
        tf.py_function(lambda y: Path(path).write_text("executed") and y, [x], tf.float32), [None]
    )


def calls_numpy(path):
    import tensorflow as tf

    return lambda x: tf.ensure_shape(
        tf.numpy_function(lambda y: Path(path).write_text("executed") and y, [x], tf.float32), [None]
    )


def prints_to_file(path):
    import tensorflow as tf

    def body(x):
        with tf.control_dependencies([tf.print("executed", output_stream=f"file://{path}")]):
            return tf.identity(x)

    return body


@pytest.mark.parametrize(
    ("make", "op"),
    [
        (writes, "WriteFile"),
        (calls_python, "EagerPyFunc"),
        (calls_numpy, "PyFunc"),
        (prints_to_file, "PrintV2"),
    ],
)
def test_a_model_that_writes_or_runs_python_is_refused_and_never_run(tmp_path, make, op):
    trace = tmp_path / "executed"
    folder = traced(tmp_path, make(str(trace)))
    # A branch of a conditional in a function in a function.
    check_refused(folder, f"the op {op}", "in the function 'cond_true")
    assert not trace.exists()


def test_a_model_that_reads_files_is_refused(tmp_path):
    import tensorflow as tf

    def body(x):
        return x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)

    check_refused(traced(tmp_path, body), "the op ReadFile reads or writes files (node 'cond/ReadFile'")


REFUSED = [
    "ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc", "ImmutableConst",
    "LoadAndRemapMatrix", "RecordInput", "TextLineDataset", "TFRecordDataset", "TFRecordDatasetV2",
    "FixedLengthRecordDataset", "FixedLengthRecordDatasetV2", "CacheDataset", "SqlDataset", "LMDBDataset",
    "MatchingFilesDataset", "SnapshotDatasetV2", "SaveDatasetV2", "LoadDataset", "DatasetFromGraph",
    "DeserializeIterator", "IteratorFromStringHandleV2", "TensorDataset", "DataServiceDatasetV4",
    "InitializeTableFromDataset", "WholeFileReader", "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2",
    "TFRecordReader", "TFRecordReaderV2", "IdentityReader", "FixedLengthRecordReaderV2", "LMDBReader", "ReaderRead",
    "ReaderReadV2", "ReaderRestoreStateV2", "SaveV2", "Save", "SaveSlices", "MergeV2Checkpoints", "RestoreV2",
    "Restore", "RestoreSlice", "DTensorRestoreV2", "DistributedSave", "InitializeTableFromTextFile",
    "InitializeTableFromTextFileV2", "GenerateVocabRemapping", "DumpTensor", "WriteSummary", "WriteScalarSummary",
    "WriteRawProtoSummary", "WriteGraphSummary", "SummaryWriter", "CreateSummaryFileWriter",
    "CreateSummaryDbWriter", "FlushSummaryWriter", "CloseSummaryWriter", "ImportEvent", "CollectiveReduceV2",
    "CollectiveGather", "CollectiveInitializeCommunicator", "Rpc", "TryRpc", "RpcCall", "RpcServer", "RemoteCall",
    "_Send", "_Recv", "_HostSend", "NcclAllReduce", "Send", "Recv", "WorkerHeartbeat", "ConfigureDistributedTPU",
    "TPUExecute", "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount", "DebugNumericSummary",
    "CopyHost", "Copy", "XlaCallModule", "XlaLaunch", "XlaCustomCallV2", "TRTEngineOp", "MlirPassthroughOp",
    "Abort", "MyOwnOp", "Custom>Op",
]  # fmt: skip


@pytest.mark.parametrize("op", REFUSED)
def test_an_op_that_reaches_outside_is_refused_in_the_graph_and_in_functions(folder, op):
    pristine = (folder / "saved_model.pb").read_bytes()

    def into_graph(meta_graph):
        meta_graph.graph_def.node.add(name="hidden", op=op, input=["a", "b", "c"])

    def into_function(meta_graph):
        body = function_like(meta_graph, "__inference___call__")
        body.node_def.add(name="hidden", op=op, input=["a", "b", "c"])
        return body.signature.name

    edit(folder, into_graph)
    check_refused(folder, f"the op {op} ", "node 'hidden' in the main graph")
    (folder / "saved_model.pb").write_bytes(pristine)
    name = edit(folder, into_function)
    check_refused(folder, f"the op {op} ", f"node 'hidden' in the function '{name}'")


@pytest.mark.parametrize(
    ("op", "attribute", "value", "safe"),
    [
        ("PrintV2", "output_stream", b"file:///tmp/x", b"stderr"),
        ("DecodeProtoV2", "descriptor_source", b"/tmp/x", b"local://"),
        ("FixedUnigramCandidateSampler", "vocab_file", b"/tmp/x", b""),
    ],
)
def test_an_op_is_refused_if_an_attribute_names_a_file(folder, op, attribute, value, safe):
    def add(meta_graph):
        meta_graph.graph_def.node.add(name="hidden", op=op).attr[attribute].s = safe

    def change(meta_graph):
        meta_graph.graph_def.node[-1].attr[attribute].s = value

    edit(folder, add)
    scan_saved_model(folder)
    edit(folder, change)
    check_refused(folder, f"the op {op} has the file '/" if op != "PrintV2" else "file:///tmp/x", attribute)


def test_a_function_named_like_an_op_does_not_hide_it(folder):
    def shadow(meta_graph):
        function = meta_graph.graph_def.library.function.add()
        function.signature.name = "WriteFile"
        meta_graph.graph_def.node.add(name="hidden", op="WriteFile")

    edit(folder, shadow)
    check_refused(folder, "the op WriteFile")


def test_every_meta_graph_is_looked_at(folder):
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    model.ParseFromString(path.read_bytes())
    model.meta_graphs.add().CopyFrom(model.meta_graphs[0])
    model.meta_graphs[1].graph_def.node.add(name="hidden", op="ReadFile")
    path.write_bytes(model.SerializeToString())
    check_refused(folder, "ReadFile")


def test_all_ops_of_this_tensorflow_that_take_file_names_or_addresses_are_judged():
    """A new TensorFlow may bring new ones: this test then names them, and somebody has to judge."""
    import tensorflow_text  # noqa: F401
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    ops = op_def_pb2.OpList()
    ops.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    words = ("file", "path", "address", "url", "server", "descriptor_source", "checkpoint", "output_stream")
    suspicious = {
        op.name
        for op in ops.op
        if any(
            word in argument.name
            for word in words
            for argument in (*op.input_arg, *(a for a in op.attr if a.type in {"string", "list(string)"}))
        )
    }
    judged = (
        {name for name in suspicious if operations._family_refusal(name)}
        | operations.SAVER_OPS
        | operations.TABLE_FILE_OPS
    )
    by_attribute = {"PrintV2", "DecodeProtoV2", "EncodeProto", "FixedUnigramCandidateSampler"}
    assert suspicious - judged - by_attribute == set()


# --- the saver's own ops, in the wrong places ---


def test_the_saver_called_by_another_function_is_refused(folder):
    def call_it(meta_graph):
        saver = function_like(meta_graph, "traced_save")
        node = function_like(meta_graph, "__inference___call__").node_def.add(name="hidden", op="PartitionedCall")
        node.attr["f"].func.name = saver.signature.name

    edit(folder, call_it)
    check_refused(folder, "outside the model's own saver", "traced_save")


def test_the_saver_called_by_its_name_is_refused(folder):
    def call_it(meta_graph):
        saver = function_like(meta_graph, "traced_restore")
        function_like(meta_graph, "__inference___call__").node_def.add(name="hidden", op=saver.signature.name)

    edit(folder, call_it)
    check_refused(folder, "RestoreV2", "outside the model's own saver")


def test_the_saver_offered_as_a_method_is_refused(folder):
    def offer(meta_graph):
        name = function_like(meta_graph, "traced_save").signature.name
        meta_graph.object_graph_def.concrete_functions[name].bound_inputs[:] = []

    edit(folder, offer)
    check_refused(folder, "outside the model's own saver")


def test_the_saver_as_a_signature_is_refused(folder):
    def sign(meta_graph):
        outputs = meta_graph.signature_def["serving_default"].outputs
        outputs["saved"].name = meta_graph.saver_def.save_tensor_name

    edit(folder, sign)
    check_refused(folder, "outside the model's own saver", "traced_save")


def test_the_saver_run_by_an_initialiser_is_refused(folder):
    def wait(meta_graph):
        saver = call_to(meta_graph, function_like(meta_graph, "traced_save"))
        (init,) = [node for node in meta_graph.graph_def.node if node.op == "NoOp"]
        init.input.append(f"^{saver.name}")

    edit(folder, wait)
    check_refused(folder, "outside the model's own saver", "traced_save")


def test_the_saver_that_another_node_waits_for_is_refused(folder):
    def wait(meta_graph):
        saver = call_to(meta_graph, function_like(meta_graph, "traced_save"))
        meta_graph.graph_def.node.add(name="hidden", op="Identity", input=["serving_default_texts", f"^{saver.name}"])

    edit(folder, wait)
    check_refused(folder, "outside the model's own saver", "traced_save")


def test_the_saver_fed_with_a_path_of_its_own_is_refused(folder):
    def feed(meta_graph):
        constant = meta_graph.graph_def.node.add(name="own_path", op="Const")
        constant.attr["value"].tensor.string_val.append(b"/tmp/x")
        call_to(meta_graph, function_like(meta_graph, "traced_restore")).input[0] = "own_path"

    edit(folder, feed)
    check_refused(folder, "RestoreV2", "outside the model's own saver")


@pytest.mark.parametrize(
    ("part", "op", "index"),
    [
        ("save", "SaveV2", 0),
        ("save", "MergeV2Checkpoints", 0),
        ("save", "MergeV2Checkpoints", 1),
        ("restore", "RestoreV2", 0),
    ],
)
def test_a_saver_with_a_constant_path_inside_is_refused(folder, part, op, index):
    def fix(meta_graph):
        body = function_like(meta_graph, f"traced_{part}")
        constant = body.node_def.add(name="own_path", op="Const")
        constant.attr["value"].tensor.string_val.append(b"/tmp/x")
        node_of(body, op).input[index] = "own_path:output:0"

    edit(folder, fix)
    check_refused(folder, f"the op {op} ", "outside the model's own saver")


def test_a_saver_that_climbs_from_its_path_is_refused(folder):
    def climb(meta_graph):
        body = function_like(meta_graph, "traced_save")
        for node in body.node_def:
            if node.op == "Const" and b".part" in node.attr["value"].tensor.string_val:
                node.attr["value"].tensor.string_val[:] = [b"/../../../x"]

    edit(folder, climb)
    check_refused(folder, "outside the model's own saver")


# --- vocabularies ---


def initialiser(meta_graph):
    (body,) = [
        fn
        for fn in meta_graph.graph_def.library.function
        if any(node.op == "InitializeTableFromTextFileV2" for node in fn.node_def)
    ]
    return body


def test_a_table_read_from_a_fixed_path_is_refused(folder):
    def fix(meta_graph):
        body = initialiser(meta_graph)
        constant = body.node_def.add(name="own_path", op="Const")
        constant.attr["value"].tensor.string_val.append(b"/etc/passwd")
        node_of(body, "InitializeTableFromTextFileV2").input[1] = "own_path:output:0"

    edit(folder, fix)
    check_refused(folder, "reads a file that is not an asset of the model")


def test_a_table_bound_to_anything_but_an_asset_is_refused(folder):
    def bind(meta_graph):
        objects = meta_graph.object_graph_def
        other = next(i for i, node in enumerate(objects.nodes) if node.WhichOneof("kind") == "variable")
        bound = objects.concrete_functions[initialiser(meta_graph).signature.name].bound_inputs
        bound[:] = [other] * len(bound)

    edit(folder, bind)
    check_refused(folder, "reads a file that is not an asset of the model")


def test_a_table_read_from_a_path_that_the_caller_gives_is_refused(folder):
    def open_up(meta_graph):
        name = initialiser(meta_graph).signature.name
        del meta_graph.object_graph_def.concrete_functions[name].bound_inputs[:]

    edit(folder, open_up)
    check_refused(folder, "reads a file that is not an asset of the model")


def test_a_table_whose_path_comes_through_another_variable_is_refused(folder):
    def divert(meta_graph):
        constant = meta_graph.graph_def.node.add(name="own_path", op="Const")
        constant.attr["value"].tensor.string_val.append(b"/etc/passwd")
        (assign,) = [
            node
            for node in meta_graph.graph_def.node
            if node.op == "AssignVariableOp" and node.input[1] == "asset_path_initializer"
        ]
        meta_graph.graph_def.node.add(name="again", op="AssignVariableOp", input=[assign.input[0], "own_path"])

    edit(folder, divert)
    check_refused(folder, "reads a file that is not an asset of the model")


@pytest.mark.parametrize("name", ["../vocab.txt", "/etc/passwd", "a/../../b", "gs://bucket/x", "a\\b", ""])
@pytest.mark.parametrize("trust", [False, True])
def test_an_asset_outside_the_folder_is_an_error_even_if_trusted(folder, name, trust):
    def move(meta_graph):
        meta_graph.asset_file_def[0].filename = name

    edit(folder, move)
    with pytest.raises(ModelFormatError, match="points out of the model's folder"):
        scan_saved_model(folder, trust=trust)


def test_a_missing_asset_is_noticed(folder):
    next((folder / "assets").iterdir()).unlink()
    with pytest.raises(ModelFormatError, match=r"asset 'vocab\.txt' is missing"):
        scan_saved_model(folder)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    vocabulary = folder / "assets" / "vocab.txt"
    vocabulary.rename(tmp_path / "elsewhere.txt")
    vocabulary.symlink_to(tmp_path / "elsewhere.txt")
    check_refused(folder, "assets/vocab.txt is a link to", "elsewhere.txt")


def test_a_link_within_the_folder_passes(folder):
    vocabulary = folder / "assets" / "vocab.txt"
    vocabulary.rename(folder / "assets" / "v2.txt")
    vocabulary.symlink_to("v2.txt")
    scan_saved_model(folder)


# --- torn and foreign files ---


def test_a_torn_graph_is_noticed_wherever_it_ends(folder):
    path = folder / "saved_model.pb"
    whole = path.read_bytes()
    for size in [*range(64), *range(64, len(whole), len(whole) // 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFormatError, match="torn"):
            scan_saved_model(folder)


def test_a_foreign_file_is_an_error(folder):
    (folder / "saved_model.pb").write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelFormatError, match="torn or no SavedModel: its 22 bytes"):
        scan_saved_model(folder)


def test_a_graph_above_the_limit_of_protobuf_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(saved_model, "_MAX_BYTES", 1000)
    with pytest.raises(ModelFormatError, match="expected at most 1,000"):
        scan_saved_model(folder)


def test_a_folder_without_a_graph_lists_what_it_holds(folder):
    (folder / "saved_model.pb").rename(folder / "saved_model.pbtxt")
    with pytest.raises(ModelFormatError, match=r"holds no saved_model\.pb: found assets") as caught:
        scan_saved_model(folder)
    assert "pbtxt" in caught.value.hint
    with pytest.raises(ModelFormatError, match="no such folder"):
        scan_saved_model(folder / "nowhere")


# --- Keras metadata ---


@pytest.fixture
def lambda_folder(tmp_path):
    import tf_keras

    trace = str(tmp_path / "executed")

    def leave_trace(x, path=trace):
        with open(path, "w") as file:
            file.write("executed")
        return x

    model = tf_keras.Sequential([tf_keras.Input((3,)), tf_keras.layers.Lambda(leave_trace, name="evil")])
    model.save(tmp_path / "model", save_format="tf")
    Path(trace).unlink()  # tracing ran it; scanning must not
    return tmp_path / "model"


def test_a_lambda_layer_in_keras_metadata_is_refused(lambda_folder, tmp_path):
    check_refused(lambda_folder, "keras_metadata.pb", "Lambda carries Python bytecode", "layer 'evil'")
    assert not (tmp_path / "executed").exists()


def test_a_lambda_layer_in_older_metadata_inside_the_graph_is_refused(lambda_folder):
    from tf_keras.protobuf import saved_metadata_pb2

    path = lambda_folder / "keras_metadata.pb"
    metadata = saved_metadata_pb2.SavedMetadata()
    metadata.ParseFromString(path.read_bytes())
    path.unlink()
    scan_saved_model(lambda_folder)  # nothing is left that Keras could rebuild

    def move_in(meta_graph):
        for node in metadata.nodes:
            meta_graph.object_graph_def.nodes[node.node_id].user_object.metadata = node.metadata

    edit(lambda_folder, move_in)
    check_refused(lambda_folder, "saved_model.pb, object", "Lambda")


def test_torn_keras_metadata_is_noticed(lambda_folder):
    path = lambda_folder / "keras_metadata.pb"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ModelFormatError, match=r"keras_metadata\.pb is torn"):
        scan_saved_model(lambda_folder)

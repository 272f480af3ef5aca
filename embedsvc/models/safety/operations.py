"""Which TensorFlow ops a model may not hold, and why.

Of the 1,900 ops TensorFlow knows, nearly all compute and cannot do anything else; an allow-list of them would be
out of date with every release and refuse honest models. So an op must be one that TensorFlow (or tensorflow_text)
knows, and must not be of a family that reaches outside the computation. The families are patterns rather than
names, wide on purpose: what a new release adds to them falls under the same rule, and a text classifier needs none.
They were drawn up over the whole list of TensorFlow 2.21: its stateful ops, and those with attributes or inputs that
can name a file, an address or a program.
"""

from __future__ import annotations

import functools
import re
from typing import Any

__all__ = ["SAVER_OPS", "TABLE_FILE_OPS", "refusal"]

# Every SavedModel holds these, to restore and save its variables. Allowed there alone; see `graphs.saver_nodes`.
SAVER_OPS = {"MergeV2Checkpoints", "Restore", "RestoreSlice", "RestoreV2", "Save", "SaveSlices", "SaveV2"}
# A vocabulary in a file. Allowed if that file is an asset of the model; see `graphs.reads_asset`.
TABLE_FILE_OPS = {"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"}

_FAMILIES = tuple(
    (re.compile(rf"(?:{pattern})(?:V\d)?"), reason)
    for pattern, reason in (
        (r".*PyFunc.*", "runs Python code"),
        (
            r"ReadFile|WriteFile|MatchingFiles|ImmutableConst|LoadAndRemapMatrix|GenerateVocabRemapping|RecordInput|"
            r"Skipgram|DumpTensor|CalibrationStatisticsSaver|DistributedSave|DTensorRestore|FileSystemSetConfiguration|"
            r".*Reader|Reader[A-Z].*",
            "reads or writes files",
        ),
        # Data pipelines read and write files and open connections; consuming one (IteratorGetNext) does not.
        (
            r".*Dataset.*|DeserializeIterator|IteratorFromStringHandle|.*MemoryCache.*|ListSnapshotChunks.*",
            "builds a data pipeline, which can read and write files",
        ),
        (
            r"(?:Write|Create|Close|Flush)[A-Za-z]*Summary.*|(?:Create|Close|Flush)Summary.*Writer|CreateSummary.*|"
            r"SummaryWriter|ImportEvent|StatsAggregatorSetSummaryWriter",
            "writes log files",
        ),
        (r"Debug.*|Copy|CopyHost", "sends tensors to a debugger's address"),
        (
            r"Collective.*|Rpc.*|TryRpc|DeleteRpc.*|RemoteCall|RemoteFusedGraphExecute|_?(?:Host)?(?:Send|Recv)|_?Nccl.*|"
            r"WorkerHeartbeat|_?DTensor.*|.*TPU.*|Infeed.*|Outfeed.*",
            "talks to other processes or to devices there are none of",
        ),
        # The program of these is a string that nobody here can read.
        (r"_?Xla.*|TRTEngineOp|MlirPassthroughOp", "runs an opaque program"),
        (r"Abort", "ends the process"),
    )
)

# Attributes that may name a file, and how their other values begin.
_FILE_ATTRIBUTES: dict[str, tuple[bytes, ...]] = {
    "output_stream": (b"stderr", b"stdout", b"log("),  # PrintV2
    "descriptor_source": (b"local://", b"bytes://"),  # DecodeProtoV2, EncodeProto
    "vocab_file": (),  # FixedUnigramCandidateSampler
}


def refusal(node: Any) -> str | None:
    """Why a node may not be there, or None; what holds for it everywhere, whatever it is connected to.

    Parameters
    ----------
    node : NodeDef
    """
    if reason := _family_refusal(node.op):
        return reason
    for attribute, harmless in _FILE_ATTRIBUTES.items():
        value = node.attr[attribute].s if attribute in node.attr else b""
        if value and not value.startswith(harmless):
            return f"has the file {value.decode(errors='replace')!r} as its {attribute}"
    return None


# A graph has many nodes and few kinds of them.
@functools.lru_cache(maxsize=4096)
def _family_refusal(op: str) -> str | None:
    return next((reason for pattern, reason in _FAMILIES if pattern.fullmatch(op)), None)

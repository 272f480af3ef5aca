"""A SavedModel's graph with its functions: what feeds a node, who calls a function, what belongs to the saver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from embedsvc.models.safety.operations import SAVER_OPS

__all__ = ["Body", "Graph", "asset_files"]

_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_PASSES_ON = {"Identity", "PlaceholderWithDefault"}
# Inputs that hold a file name, for the ops of the saver.
_PREFIXES = {"MergeV2Checkpoints": (0, 1)}


def _producer(tensor: str) -> str:
    """Node or argument that a tensor comes from: ``^a``, ``a:1`` and ``a:output:0`` come from ``a``."""
    return tensor.lstrip("^").split(":")[0]


def _data(node: Any) -> list[str]:
    """Inputs without those that only order execution."""
    return [tensor for tensor in node.input if not tensor.startswith("^")]


@dataclass(frozen=True)
class Body:
    """The nodes of one function, or of the main graph (whose name is empty)."""

    name: str
    arguments: tuple[str, ...]
    nodes: Any  # repeated NodeDef

    def __str__(self) -> str:
        return f"the function {self.name!r}" if self.name else "the main graph"

    @cached_property
    def by_name(self) -> dict[str, Any]:
        """NodeDef by name."""
        return {node.name: node for node in self.nodes}

    def reached(self, ends: set[str], *, forward: bool = False) -> set[str]:
        """Names of all nodes that feed these ends, or that they feed; the ends are among them."""
        found, todo = set(ends), list(ends)
        while todo:
            for name in self._consumers[todo.pop()] if forward else self._inputs(todo.pop()):
                if name not in found:
                    found.add(name)
                    todo.append(name)
        return found

    def _inputs(self, name: str) -> list[str]:
        return [_producer(tensor) for tensor in self.by_name[name].input] if name in self.by_name else []

    @cached_property
    def _consumers(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for node in self.nodes:
            for tensor in node.input:
                found[_producer(tensor)].append(node.name)
        return found


def asset_files(meta_graph: Any) -> list[Any]:
    """The AssetFileDefs of a meta graph, from where TensorFlow's loader takes them; TensorFlow 1 has a collection."""
    if meta_graph.asset_file_def or "saved_model_assets" not in meta_graph.collection_def:
        return list(meta_graph.asset_file_def)
    from tensorflow.core.protobuf import meta_graph_pb2

    found = []
    for packed in meta_graph.collection_def["saved_model_assets"].any_list.value:
        found.append(meta_graph_pb2.AssetFileDef())
        packed.Unpack(found[-1])
    return found


class Graph:
    """One meta graph.

    Parameters
    ----------
    meta_graph : MetaGraphDef
    """

    def __init__(self, meta_graph: Any) -> None:
        self.meta_graph = meta_graph
        library = meta_graph.graph_def.library
        self.main = Body("", (), meta_graph.graph_def.node)
        self.functions = {
            function.signature.name: Body(
                function.signature.name,
                tuple(argument.name for argument in function.signature.input_arg),
                function.node_def,
            )
            for function in library.function
        }
        self.assets = {_producer(asset.tensor_info.name) for asset in asset_files(meta_graph)} - {""}

    @property
    def bodies(self) -> Iterator[Body]:
        """The main graph, then every function, called or not."""
        yield self.main
        yield from self.functions.values()

    @cached_property
    def calls(self) -> dict[str, list[tuple[Body, Any]]]:
        """Who refers to a function: body and node for each mention."""
        found = defaultdict(list)
        for body in self.bodies:
            for node in body.nodes:
                if node.op in self.functions:
                    found[node.op].append((body, node))
                for value in node.attr.values():
                    for name in (value.func.name, *(function.name for function in value.list.func)):
                        if name:
                            found[name].append((body, node))
        return found

    # --- the saver ---

    @cached_property
    def saver_nodes(self) -> set[tuple[str, str]]:
        """Body and name of the save and restore ops that belong to the saver.

        TensorFlow 2 exports two functions, ``traced_save`` and ``traced_restore``, called by one node each, which
        the saver's definition names and a placeholder feeds with the path. TensorFlow 1 has the same ops in the main
        graph. Loaders either leave both alone or feed them the model's own ``variables/`` path. So such an op is
        the saver's if all of this holds: its file name comes from that placeholder; nothing else calls its function;
        and nothing outside the saver waits for it, neither a signature nor an initialiser.
        """
        saver = self.meta_graph.saver_def
        path = _producer(saver.filename_tensor_name)
        ends = {_producer(saver.save_tensor_name), _producer(saver.restore_op_name)} - {""}
        inside = self.main.reached(ends)
        found = set()
        for name in inside:
            node = self.main.by_name.get(name)
            if node is None or not self._only_the_saver_runs(name, inside):
                continue
            if node.op in SAVER_OPS and self._leads_to(self.main, node, {path}):
                found.add(("", name))
            elif node.op in _CALLS and name in ends and node.input and _producer(node.input[0]) == path:
                function = node.attr["f"].func.name
                if function in self.functions and self._is_private(function):
                    body = self.functions[function]
                    found |= {
                        (function, inner.name)
                        for inner in body.nodes
                        if inner.op in SAVER_OPS and self._leads_to(body, inner, set(body.arguments[:1]))
                    }
        return found

    def _only_the_saver_runs(self, name: str, inside: set[str]) -> bool:
        waiting = self.main.reached({name}, forward=True)
        return waiting <= inside and not waiting & self._run_by_loaders

    @cached_property
    def _run_by_loaders(self) -> set[str]:
        """Nodes of the main graph that run on loading or on a call: initialisers and the ends of signatures."""
        names = {
            _producer(tensor.name)
            for signature in self.meta_graph.signature_def.values()
            for tensor in signature.outputs.values()
        }
        for collection in self.meta_graph.collection_def.values():
            names |= {_producer(name) for name in collection.node_list.value}
        return names

    def _is_private(self, function: str) -> bool:
        """Whether one node alone calls a function, and no object of the model offers it."""
        offered = function in self.meta_graph.object_graph_def.concrete_functions
        gradients = {
            name
            for gradient in self.meta_graph.graph_def.library.gradient
            for name in (gradient.function_name, gradient.gradient_func)
        }
        return len(self.calls[function]) == 1 and not offered and function not in gradients

    def _leads_to(self, body: Body, node: Any, path: set[str]) -> bool:
        """Whether all file names of a save or restore op are made from the path given to the saver."""
        return all(
            index < len(node.input) and self._is_below(body, node.input[index], path)
            for index in _PREFIXES.get(node.op, (0,))
        )

    def _is_below(self, body: Body, tensor: str, path: set[str]) -> bool:
        """Whether a string is the path, or the path with something harmless behind it."""
        name = _producer(tensor)
        if name in path:
            return True
        node = body.by_name.get(name)
        if node is None:
            return False
        # ShardedFilename(base, shard, shards): only the base is a name. Pack: several names.
        if node.op in {"Identity", "ShardedFilename"}:
            return self._is_below(body, node.input[0], path)
        if node.op == "Pack":
            return all(self._is_below(body, item, path) for item in _data(node))
        if node.op == "StringJoin":
            first, *rest = _data(node)
            return self._is_below(body, first, path) and all(self._is_plain(body, item) for item in rest)
        return False

    def _is_plain(self, body: Body, tensor: str) -> bool:
        """Whether a string is a constant (or one of two) that does not climb."""
        node = body.by_name.get(_producer(tensor))
        if node is None:
            return False
        if node.op in {"Select", "SelectV2"}:
            return all(self._is_plain(body, item) for item in node.input[1:3])
        return node.op == "Const" and all(b".." not in item for item in node.attr["value"].tensor.string_val)

    # --- assets ---

    def reads_asset(self, body: Body, tensor: str) -> bool:
        """Whether a file name can be nothing but the path of one of the model's assets, followed through all calls."""
        return self._reads_asset(body, tensor, set())

    def _reads_asset(self, body: Body, tensor: str, seen: set[tuple[str, str]]) -> bool:
        name = _producer(tensor)
        if (body.name, name) in seen:  # a ring adds nothing; its other entries decide
            return True
        seen.add((body.name, name))
        if body.name and name in body.arguments:
            return self._argument_is_asset(body, body.arguments.index(name), seen)
        if not body.name and name in self.assets:
            return True
        node = body.by_name.get(name)
        if node is None or not node.input:
            return False
        if node.op in _PASSES_ON:
            return self._reads_asset(body, node.input[0], seen)
        # TensorFlow 2 keeps the path of an asset in a variable of the main graph.
        if node.op == "ReadVariableOp" and not body.name:
            handle = _producer(node.input[0])
            writes = [
                other.input[1]
                for other in body.nodes
                if other.op == "AssignVariableOp" and _producer(other.input[0]) == handle
            ]
            return bool(writes) and all(self._reads_asset(body, written, seen) for written in writes)
        return False

    def _argument_is_asset(self, body: Body, index: int, seen: set[tuple[str, str]]) -> bool:
        for caller, node in self.calls[body.name]:
            # Loops and branches count their inputs in other ways; no exporter passes an asset through them.
            if node.op not in {*_CALLS, body.name} or index >= len(node.input):
                return False
            if not self._reads_asset(caller, node.input[index], seen):
                return False
        objects = self.meta_graph.object_graph_def
        if body.name in objects.concrete_functions:
            # Called from Python: the last arguments are bound to objects of the model, the others come from outside.
            bound = objects.concrete_functions[body.name].bound_inputs
            position = index - (len(body.arguments) - len(bound))
            return position >= 0 and objects.nodes[bound[position]].WhichOneof("kind") == "asset"
        return True

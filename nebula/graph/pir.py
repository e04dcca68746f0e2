"""Paddle's PIR program of one traced layer as a block: canonical kinds, attributes as values, dead constants dropped.

Works on the program object alone and imports no Paddle. Values that Paddle passes as constant tensors (target shapes,
axes, rates) become attributes; control flow that depends on tensor values is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nebula.errors import BadInput
from nebula.graph.pir_attributes import canonical_attributes
from nebula.graph.rules.recurrent import reserved_shape
from nebula.graph.values import DTYPE_BYTES, Block, Operator, Role, Tensor

PATH_ATTRIBUTE = "nebula_path"
"""The operator attribute in which capture leaves the path of the sublayer that made the operator."""

_ALIASES = {
    "bmm": "matmul",
    "mv": "matmul",
    "depthwise_conv2d": "conv2d",
    "cross_entropy_with_softmax": "cross_entropy",
    "flatten": "reshape",
    "view_shape": "reshape",
    "split_with_num": "split",
    "mean_all": "mean",
    "bilinear_interp": "interpolate",
    "nearest_interp": "interpolate",
    "bicubic_interp": "interpolate",
    "pad3d": "pad",
    "embedding_with_scaled_gradient": "embedding",
    "flash_attn": "attention",
    "memory_efficient_attention": "attention",
    "p_norm": "p_norm",
    "full_with_tensor": "full",
    "gaussian_": "gaussian",
    "isfinite_": "isfinite",
    "hardswish_": "hardswish",
    "p_send_array": "p_send_array",
}
_CONSTANTS = frozenset({"full", "full_int_array", "assign_value"})
_CONSTANT_ARGUMENTS = frozenset({"shape", "axis", "scale", "p", "starts", "ends", "strides", "k", "sections", "num"})
_CONSTANT_ARGUMENTS |= {"repeat_times", "num_classes", "depth", "start", "end", "step", "min", "max", "pad_value"}
_CONSTANT_ARGUMENTS |= {"shifts", "kernel_size", "output_size", "num_samples"}
_SHAPED = frozenset({"reshape", "expand", "full", "uniform", "gaussian", "randint", "empty"})
_SKIPPED = frozenset({"builtin.shadow_output", "builtin.constant", "cf.yield"})
_CONTROL = frozenset({"pd_op.if", "pd_op.while", "cf.tuple_push", "pd_op.select_input"})
_NOISE = frozenset({"op_callstack", "stop_gradient", "struct_name", "place", "persistable", PATH_ATTRIBUTE, "shape"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the values that a program begins with are.

    Attributes:
        parameters: Paddle's parameter name -> the tensor, without a row dependence.
        data: name of a data input -> whether it needs a gradient.
    """

    parameters: Mapping[str, Tensor]
    data: Mapping[str, bool]


@dataclass(slots=True)
class _Reading:
    """A block while its program is read.

    Attributes:
        names: PIR value id -> tensor name, or for a list of values their names.
        constants: PIR value id -> the constant.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    names: dict[Any, tuple[str, ...]] = field(default_factory=dict)
    constants: dict[Any, object] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def read_program(program: Any, outputs: Sequence[Any], origin: Origin, *, name: str, rows: int) -> Block:
    """The block of a traced program, rules not applied.

    Args:
        program: `concrete_program.main_program`.
        outputs: the PIR values that the layer returns.
        origin: what parameters and data inputs are.
        name: of the block.
        rows: that the shapes hold for.

    Raises:
        BadInput: the program branches on the value of a tensor.
    """
    reading = _Reading()
    for op in program.global_block().ops:
        _read(op, origin, name, reading)
    returned = tuple(n for value in outputs for n in reading.names[value.id])
    operators = _alive(reading.operators, returned)
    inputs = tuple(t.name for t in reading.tensors.values() if t.role is Role.INPUT)
    shown = {n for op in operators for n in (*op.inputs, *op.outputs)} | set(returned) | set(inputs)
    shown |= {tensor.name for tensor in origin.parameters.values() if tensor.role is Role.PARAMETER}
    return Block(
        name=name,
        rows=rows,
        tensors=tuple(t for t in reading.tensors.values() if t.name in shown),
        operators=tuple(operators),
        inputs=inputs,
        outputs=returned,
    )


def _read(op: Any, origin: Origin, layer: str, reading: _Reading) -> None:
    """Takes one PIR operation into the block."""
    kind = op.name()
    if kind == "builtin.parameter":
        _read_parameter(op, origin, reading)
    elif kind == "pd_op.data":
        _read_data(op, origin, reading)
    elif kind == "builtin.combine":
        parts = (n for v in op.operands_source() if v.initialized() for n in reading.names[v.id])
        reading.names[op.results()[0].id] = tuple(parts)
    elif kind == "builtin.split":
        for value, tensor in zip(op.results(), reading.names[op.operands_source()[0].id], strict=True):
            reading.names[value.id] = (tensor,)
    elif kind in _CONTROL:
        raise BadInput(
            f"{layer}: {_path(op) or 'its forward'} branches on the value of a tensor ({kind}), so its work is not "
            "known before it runs; make the branch depend on shapes or configuration"
        )
    elif kind not in _SKIPPED:
        _read_operator(op, kind.removeprefix("pd_op."), reading)


def _read_parameter(op: Any, origin: Origin, reading: _Reading) -> None:
    value = op.results()[0]
    tensor = origin.parameters[str(op.attrs()["parameter_name"])]
    reading.tensors[tensor.name] = tensor
    reading.names[value.id] = (tensor.name,)


def _read_data(op: Any, origin: Origin, reading: _Reading) -> None:
    value, name = op.results()[0], str(op.attrs()["name"])
    reading.tensors[name] = Tensor(
        name=name,
        shape=tuple(int(d) for d in value.shape),
        dtype=dtype_name(value.dtype),
        role=Role.INPUT,
        needs_gradient=origin.data[name],
    )
    reading.names[value.id] = (name,)


def dtype_name(dtype: object) -> str:
    """`paddle.float32` -> `float32`."""
    return str(dtype).rsplit(".", 1)[-1]


def _path(op: Any) -> str:
    return str(op.attrs().get(PATH_ATTRIBUTE, "")) if op.has_attr(PATH_ATTRIBUTE) else ""


def _read_operator(op: Any, raw_kind: str, reading: _Reading) -> None:
    attributes = {k: _plain(v) for k, v in op.attrs().items() if k not in _NOISE}
    if raw_kind in _CONSTANTS:
        reading.constants[op.results()[0].id] = _constant(attributes, dtype_name(op.results()[0].dtype))
    inplace = raw_kind.endswith("_") and not raw_kind.startswith("_")
    kind = raw_kind.removesuffix("_")
    kind = _ALIASES.get(kind, kind)
    inputs, absent = _operands(op, kind, attributes, reading)
    path = _path(op)
    name = _unique(f"{path}/{kind}" if path else kind, reading)
    outputs = _results(op, name, reading)
    if not outputs:
        return
    if absent:
        attributes["absent"] = tuple(absent)
    if inplace and raw_kind != "batch_norm_":
        attributes["inplace"] = True
    if kind == "rnn":
        _complete_recurrent(outputs, attributes, reading)
    shapes = [reading.tensors[n].shape for n in inputs], [reading.tensors[n].shape for n in outputs]
    reading.operators.append(
        Operator(
            name=name,
            kind=kind,
            inputs=tuple(inputs),
            outputs=outputs,
            attributes=canonical_attributes(kind, attributes, *shapes),
        )
    )


def _complete_recurrent(outputs: Sequence[str], attributes: Mapping[str, object], reading: _Reading) -> None:
    """Gives the shapes that a program leaves open: the dropout mask and what is reserved for the backward."""
    out = reading.tensors[outputs[0]]
    layers = attributes.get("num_layers", 1)
    assert isinstance(layers, int)
    reserved = reserved_shape(out.shape, mode=str(attributes.get("mode")), layers=layers)
    for name, shape, dtype in ((outputs[1], out.shape, "uint8"), (outputs[-1], reserved, out.dtype)):
        reading.tensors[name] = Tensor(name=name, shape=shape, dtype=dtype)


def _constant(attributes: Mapping[str, object], dtype: str) -> object:
    """The value of a constant; Paddle keeps integers of `full` as floats."""
    value = attributes.get("value", attributes.get("values"))
    return int(value) if isinstance(value, float) and "int" in dtype else value


def _operands(op: Any, kind: str, attributes: dict[str, object], reading: _Reading) -> tuple[list[str], list[str]]:
    """Names of the tensors among the operands, and of the arguments that are absent; constants join `attributes`."""
    inputs: list[str] = []
    absent: list[str] = []
    for argument, value in zip(op.get_input_names(), op.operands_source(), strict=False):
        if not value.initialized():
            absent.append(_ARGUMENTS.get((kind, argument), argument))
        elif value.id in reading.constants and argument in _CONSTANT_ARGUMENTS:
            if not (argument == "shape" and kind in _SHAPED):
                attributes[argument] = reading.constants[value.id]
        elif argument != "shape" or kind not in _SHAPED:
            inputs.extend(reading.names[value.id])
    return inputs, absent


_ARGUMENTS = {
    ("layer_norm", "scale"): "weight",
    ("rms_norm", "scale"): "weight",
    ("rms_norm", "norm_weight"): "weight",
    ("rms_norm", "norm_bias"): "bias",
    ("group_norm", "scale"): "weight",
    ("instance_norm", "scale"): "weight",
    ("batch_norm", "scale"): "weight",
}


def _results(op: Any, name: str, reading: _Reading) -> tuple[str, ...]:
    """Declares the outputs that hold dense tensors; the first is called like the operator."""
    outputs: list[str] = []
    for value in op.results():
        parts = _dense(value)
        names = [name if not outputs and i == 0 else f"{name}:{len(outputs) + i}" for i in range(len(parts))]
        for tensor, (shape, dtype) in zip(names, parts, strict=True):
            reading.tensors[tensor] = Tensor(name=tensor, shape=shape, dtype=dtype)
        outputs.extend(names)
        reading.names[value.id] = tuple(names)
    return tuple(outputs)


def _dense(value: Any) -> list[tuple[tuple[int, ...], str]]:
    """Shape and dtype of each tensor of a value; none where it is unused or of unknown shape."""
    if not value.initialized():
        return []
    kind = value.type()
    vector = kind.as_vec_type()
    found = []
    for part in vector.as_list() if vector else [kind]:
        shape, dtype = tuple(int(d) for d in part.shape), dtype_name(part.dtype)
        if min(shape, default=0) < 0 or dtype not in DTYPE_BYTES:
            return []
        found.append((shape, dtype))
    return found


def _unique(name: str, reading: _Reading) -> str:
    reading.counts[name] += 1
    return name if reading.counts[name] == 1 else f"{name}.{reading.counts[name]}"


def _plain(value: object) -> object:
    """Lists as tuples, enumerations and dtypes as text."""
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return dtype_name(value)


def _alive(operators: Sequence[Operator], returned: Sequence[str]) -> list[Operator]:
    """The operators that an output depends on."""
    needed = set(returned)
    kept: list[Operator] = []
    for operator in reversed(operators):
        if needed & set(operator.outputs):
            needed.update(operator.inputs)
            kept.append(operator)
    return kept[::-1]

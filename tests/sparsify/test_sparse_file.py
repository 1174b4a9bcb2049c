"""Sparse files: read back bit for bit, small, and refused when damaged."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import nn

from leandet import nets
from leandet.errors import UserError
from leandet.sparsify import load_sparse, save_sparse, share, sparsify
from leandet.sparsify.sparse_file import DTYPES, KEY, LAYOUT_BYTES, SparseFile, encode
from leandet.sparsify.streams import expand, from_gaps, squeeze, to_gaps

SQUEEZENET = Path(__file__).parents[3] / "shared" / "weights" / "squeezenet1_0_deepcompressed.safetensors"


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    def raw(tensor: torch.Tensor) -> bytes:
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""

    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


def reread(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    path.write_bytes(encode(tensors))
    return SparseFile.open(path).tensors()


@st.composite
def any_tensor(draw: st.DrawFn) -> torch.Tensor:
    """Random bits (NaNs, infinities, negative zeros), or few distinct values, with any share of zeros."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(st.lists(st.integers(0, 9), max_size=4))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = int(np.prod(shape, dtype=int))
    most = 2 if dtype is torch.bool else 256
    raw = torch.from_numpy(random.integers(0, most, (size, dtype.itemsize), np.uint8))
    if draw(st.booleans()) and size:
        raw = raw[torch.from_numpy(random.integers(0, min(size, 5), size))]
    raw[torch.from_numpy(random.random(size) < draw(st.sampled_from([0, 0.5, 0.9, 0.999, 1])))] = 0
    return raw.contiguous().view(-1).view(dtype).reshape(shape)


@given(st.lists(any_tensor(), max_size=3))
@settings(max_examples=40)
def test_whatever_is_written_is_read_back_bit_for_bit(tmp_path_factory, tensors):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    named = {f"ü{index}": tensor for index, tensor in enumerate(tensors)}
    found = reread(path, named)
    assert list(found) == list(named)
    assert all(same_bits(found[name], tensor) for name, tensor in named.items())


@pytest.mark.parametrize("distinct", [1, 2, 255, 256, 257, 1000, 65536, 65537])
def test_codebooks_of_any_size(tmp_path, distinct):
    random = np.random.default_rng(0)
    values = torch.from_numpy(random.standard_normal(distinct).astype(np.float32))
    tensor = torch.cat([values, values[torch.from_numpy(random.integers(0, distinct, 150_000))]])
    tensor[::3] = 0
    assert same_bits(reread(tmp_path / "a", {"a": tensor})["a"], tensor)


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 3), st.integers(0, 1200))
@settings(max_examples=60)
def test_gaps_say_where(flags, repeats, empty):
    kept = np.array(flags * repeats + [False] * empty + flags, bool)
    stream = to_gaps(kept)
    assert from_gaps(stream, len(kept), "f").tolist() == np.flatnonzero(kept).tolist()
    assert len(stream) <= kept.sum() + len(kept) // 255


def test_a_network_comes_back_and_its_zeros_are_cheap(tmp_path):
    torch.manual_seed(0)
    module = sparsify(nets.create("mobilenet_v2_035", num_classes=10), 0.9).module
    path = tmp_path / "model.safetensors"
    save_sparse(module, path, {"note": "kept"})
    other = load_sparse(nets.create("mobilenet_v2_035", num_classes=10), path)
    assert all(same_bits(other.state_dict()[name], tensor) for name, tensor in module.state_dict().items())
    dense = len(save(module.state_dict()))
    assert path.stat().st_size < dense / 5  # a third of this small network is batch-norms and depthwise filters
    save_sparse(share(module), path)
    assert path.stat().st_size < dense / 10


def test_repeated_blocks_cost_less_than_single_weights(tmp_path):
    from leandet.sparsify import Blocks, Random

    torch.manual_seed(0)
    layer = share(nn.Linear(256, 256), 4)
    sizes = []
    for pattern in (None, Blocks(4)):
        chosen = {} if pattern is None else {"pattern": pattern}
        save_sparse(sparsify(layer, 0.5, scorer=Random(), **chosen).module, tmp_path / "a")
        sizes.append((tmp_path / "a").stat().st_size)
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.skipif(not SQUEEZENET.is_file(), reason="the weights are not here")
def test_deep_compressions_squeezenet_is_small_and_exact(tmp_path):
    state = load_file(SQUEEZENET)
    found = reread(tmp_path / "model.safetensors", state)
    assert all(same_bits(found[name], tensor) for name, tensor in state.items())
    assert (tmp_path / "model.safetensors").stat().st_size < 0.7e6


def test_it_is_a_plain_safetensors_file_of_bytes(tmp_path):
    save_sparse(nn.Linear(8, 8), tmp_path / "a")
    streams = load_file(tmp_path / "a")
    assert {"layout", "gaps", "values0", "values1", "values2", "values3"} <= set(streams)
    assert all(stream.dtype == torch.uint8 for stream in streams.values())
    assert json.loads(lzma.decompress(streams["layout"].numpy().tobytes()))["tensors"][0] == [
        *("weight", "float32", [8, 8], 0)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.manual_seed(0)
    module = sparsify(nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 8)), 0.5).module
    path = tmp_path_factory.mktemp("whole") / "whole.safetensors"
    save_sparse(share(module, 2), path)
    return path.read_bytes()


def empty() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 8))


def test_any_flipped_byte_is_noticed_or_harmless(whole, tmp_path):
    """Every stream has a checksum; a byte of the header may be a name that nobody reads."""
    wanted = load_sparse(empty(), _written(tmp_path, whole)).state_dict()
    refused = 0
    for index in range(0, len(whole), 13):
        broken = bytearray(whole)
        broken[index] ^= 0x55
        try:
            found = load_sparse(empty(), _written(tmp_path, bytes(broken))).state_dict()
        except UserError:
            refused += 1
        else:
            assert all(same_bits(found[name], tensor) for name, tensor in wanted.items())
    assert refused > 0.9 * len(range(0, len(whole), 13))


def _written(folder: Path, content: bytes) -> Path:
    (folder / "m.safetensors").write_bytes(content)
    return folder / "m.safetensors"


@pytest.mark.parametrize("kept", [0, 0.01, 0.5, 0.99])
def test_truncated_files(whole, tmp_path, kept):
    with pytest.raises(UserError, match=r"m\.safetensors is not a whole sparse model file"):
        load_sparse(empty(), _written(tmp_path, whole[: int(kept * len(whole))]))


def test_a_module_of_another_shape_stays_as_it_was(whole, tmp_path):
    module = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 9))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(UserError, match=r"another network: they differ in the tensor '1\.bias'"):
        load_sparse(module, _written(tmp_path, whole))
    assert all(same_bits(module.state_dict()[name], tensor) for name, tensor in before.items())


def test_missing_plain_and_later_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_sparse(empty(), tmp_path / "none")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain")
    with pytest.raises(UserError, match="not a sparse model file"):
        load_sparse(empty(), tmp_path / "plain")
    save_file({"a": torch.zeros(1)}, tmp_path / "later", {KEY: "2"})
    with pytest.raises(UserError, match="version '2'"):
        load_sparse(empty(), tmp_path / "later")


def forge(path: Path, layout: object, **streams: bytes) -> Path:
    text = json.dumps(layout).encode()
    packed = {"layout": squeeze(text), **{name: squeeze(raw) for name, raw in streams.items()}}
    tensors = {name: torch.frombuffer(bytearray(raw), dtype=torch.uint8) for name, raw in packed.items()}
    save_file(tensors, path, {KEY: "1", LAYOUT_BYTES: str(len(text))})
    return path


BIAS = ["bias", "float32", [2], 0]


@pytest.mark.parametrize(
    ("layout", "streams"),
    [
        ([], {}),
        ({"tensors": [BIAS]}, {}),
        ({"tensors": [["bias", "float32", [2]]], "bytes": {}}, {}),
        ({"tensors": [["bias", "object", [2], 0]], "bytes": {"gaps": 0}}, {"gaps": b""}),
        ({"tensors": [["bias", "float32", [-2], 0]], "bytes": {"gaps": 0}}, {"gaps": b""}),
        ({"tensors": [["bias", "float32", [2], -1]], "bytes": {"gaps": 0}}, {"gaps": b""}),
        ({"tensors": [["bias", "float32", [1 << 40], 0]], "bytes": {"gaps": 0}}, {"gaps": b""}),
        ({"tensors": [BIAS, BIAS], "bytes": {"gaps": 0}}, {"gaps": b""}),
        ({"tensors": [BIAS], "bytes": {}}, {}),
        ({"tensors": [BIAS], "bytes": {"gaps": 1 << 30}}, {"gaps": b""}),
        ({"tensors": [BIAS], "bytes": {"gaps": 1}}, {"gaps": b"\x00\x00"}),
        ({"tensors": [BIAS], "bytes": {"gaps": 1}}, {"gaps": b"\x02"}),
        ({"tensors": [BIAS], "bytes": {"gaps": 1}}, {"gaps": b"\xff"}),
        ({"tensors": [BIAS], "bytes": {"gaps": 1}}, {"gaps": b"\x00"}),
        (
            {"tensors": [["bias", "uint8", [2], 1]], "bytes": {"gaps": 1, "values0": 1, "codes0": 1}},
            {"gaps": b"\x00", "values0": b"\x01", "codes0": b"\x01"},
        ),
    ],
)
def test_forged_files(tmp_path, layout, streams):
    with pytest.raises(UserError, match="not a whole sparse model file"):
        SparseFile.open(forge(tmp_path / "forged", layout, **streams)).tensors()


def test_a_bomb_is_never_unpacked_beyond_its_stated_size():
    bomb = squeeze(bytes(1 << 22))
    assert len(bomb) < 1024
    with pytest.raises(UserError, match="another length"):
        expand(bomb, 1000, "f")


def test_a_stream_that_wants_much_memory_is_refused():
    greedy = lzma.compress(b"a" * 100, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 22}])
    with pytest.raises(UserError, match="Memory usage limit"):
        expand(greedy, 100, "f")


def test_a_type_that_cannot_be_written():
    with pytest.raises(UserError, match="complex64"):
        encode({"a": torch.zeros(1, dtype=torch.complex64)})

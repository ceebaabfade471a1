"""Whatever a weight file holds, it is read or refused with an error of ours; nothing of it is run.

An array is never larger than its file, so that reading one cannot exhaust the memory.
"""

import contextlib
import io
import json
import os
import resource
import struct
import zipfile
from collections import OrderedDict

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import resnet_jax as rn
from resnet_jax.errors import ResnetJaxError, WeightsError
from resnet_jax.weights import read_state_dict, to_tensors
from resnet_jax.weights.files import ENTRIES

torch = pytest.importorskip("torch")

ARRAYS = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn1.num_batches_tracked": np.array(7),
    "fc.bias": np.ones(3, np.float16),
}
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def little_memory():
    """A single array of 64 GB is more than this process may have."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**36, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def saved(content, legacy=False):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def read_or_refused(folder, content):
    path = folder / "weights"
    path.write_bytes(content)
    try:
        arrays = read_state_dict(path)
    except WeightsError:
        return None
    assert all(isinstance(key, str) and isinstance(array, np.ndarray) for key, array in arrays.items())
    assert all(array.nbytes <= len(content) for array in arrays.values())
    return arrays


FILES = {
    "safetensors": save(ARRAYS),
    "zip": saved(to_tensors(ARRAYS)),
    "legacy": saved(to_tensors(ARRAYS), legacy=True),
    "wrapped": saved({"model": to_tensors(ARRAYS), "epoch": 3, "args": [1.5, "x", None]}),
}
# Replaced, inserted and left out bytes, at places given as fractions of the file.
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=8)), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", FILES)
@settings(quick, max_examples=200)
@given(edits=edits)
def test_a_file_with_changed_bytes(tmp_path, kind, edits):
    content = FILES[kind]
    for place, removed, inserted in edits:
        at = int(place * len(content))
        content = content[:at] + inserted + content[at + removed :]
    read_or_refused(tmp_path, content)


@pytest.mark.parametrize("kind", ["zip", "wrapped"])
def test_a_zip_that_claims_to_span_two_disks(tmp_path, kind):
    locator = FILES[kind].rindex(b"PK\x06\x07")  # the ZIP64 locator ends in the number of disks
    content = FILES[kind][: locator + 16] + struct.pack("<L", 2) + FILES[kind][locator + 20 :]
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"is damaged or cut short \(zipfiles that span multiple disks"):
        read_state_dict(tmp_path / "a.pth")


numbers = st.sampled_from([-1, 0, 1, 2, 3, 4, 24, 96, 2**31, 2**40, 2**62, 2**63, 2**64, 10**30]) | st.integers()
odd = st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=4)
entry = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "F4", "X"]) | odd,
        "shape": st.lists(numbers, max_size=4) | odd,
        "data_offsets": st.lists(numbers, min_size=2, max_size=2) | odd,
    },
    optional={"more": odd},
)
headers = st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), entry | odd, max_size=3) | odd | st.lists(odd)


@quick
@given(headers, st.integers(0, 200), st.none() | numbers)
def test_safetensors_of_any_header(tmp_path, header, size, claimed):
    text = json.dumps(header).encode()
    claimed = len(text) if claimed is None else claimed % 2**64
    read_or_refused(tmp_path, struct.pack("<Q", claimed) + text + bytes(size))


@quick
@given(st.lists(st.sampled_from([0, 0, 1, 2**31, 2**40, 2**62, 2**63]), min_size=1, max_size=4))
def test_safetensors_of_no_bytes_and_any_shape(tmp_path, shape):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    read_or_refused(tmp_path, struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize(
    "text", [b"{" * 100_000, b'{"a":' * 50_000, b'{"a":' + b"9" * 10_000 + b"}", b'{"a":[[[[' * 9_999]
)
def test_a_header_made_to_hurt(tmp_path, text):
    assert read_or_refused(tmp_path, struct.pack("<Q", len(text)) + text) is None


tensors = st.sampled_from(
    [
        torch.ones(2, 3),
        torch.ones(1).expand(2**40),
        torch.empty(0, 2**40),
        torch.tensor(1 + 2j),
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2).to(torch.float8_e4m3fn),
        torch.eye(3).to_sparse(),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.empty(2**20, 2**20, device="meta"),
        torch.nn.Parameter(torch.ones(2)),
        torch.tensor([1 + 2j]).conj(),
        torch.ones(4, 4).T,
    ]
)
keys = st.sampled_from([*ENTRIES, "module.", "module.a", "_orig_mod.a", "a", "n_averaged", ""]) | st.text(max_size=3)
odd_keys = keys | st.integers() | st.none() | st.floats(allow_nan=False) | st.tuples(st.integers())
things = st.recursive(
    tensors | odd,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(odd_keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=6,
)


@settings(quick, max_examples=300)
@given(things, st.booleans())
def test_torch_files_of_anything(tmp_path, content, legacy):
    try:
        content = saved(content, legacy)
    except (RuntimeError, AttributeError, NotImplementedError, UnicodeEncodeError):  # torch cannot save it
        return
    read_or_refused(tmp_path, content)


def test_a_view_that_claims_a_terabyte_is_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(saved({"fc.weight": torch.ones(1, 1).expand(2**30, 512)}))
    with pytest.raises(WeightsError, match=r"claims arrays larger than the file: fc.weight;"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("member", ["archive/data.pkl", "archive/data/0", "archive/other"])
def test_a_zip_bomb_is_refused_before_it_goes_off(tmp_path, member):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(io.BytesIO(FILES["zip"])) as source, zipfile.ZipFile(path, "w") as bomb:
        for name in {*source.namelist(), member}:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED if name == member else zipfile.ZIP_STORED
            bomb.writestr(info, bytes(2**26) if name == member else source.read(name))
    assert path.stat().st_size < 2**18
    with pytest.raises(WeightsError, match=r"is compressed, which no PyTorch file is"):
        read_state_dict(path)


class Attack:
    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return os.mkdir, (self.trap,)


@settings(quick, max_examples=60)
@given(keys, st.sampled_from([None, *ENTRIES]), st.booleans())
def test_no_place_in_a_file_runs_code(tmp_path, key, wrapper, legacy):
    trap = tmp_path / "executed"
    content = {"a": torch.ones(2), key: Attack(str(trap))}
    assert read_or_refused(tmp_path, saved({wrapper: content} if wrapper else content, legacy)) is None
    assert not trap.exists()


@pytest.fixture(scope="module")
def network():
    model = rn.create_model("cifar_resnet20", num_classes=3)
    shapes = jax.eval_shape(lambda key: rn.init(model, key), jax.random.key(0))
    return rn.to_torchvision(jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes))


@pytest.fixture
def few_networks(monkeypatch):
    """Which network a file is of is asked of all there are; these will do."""
    monkeypatch.setattr("resnet_jax.weights.recognize.list_models", lambda task: ["cifar_resnet20", "resnet18"])


shapes = st.lists(st.integers(0, 3), max_size=5)
changed = st.dictionaries(
    st.sampled_from(["conv1.weight", "fc.weight", "fc.bias", "bn1.weight", "bn1.running_var", "new"]),
    st.none() | st.tuples(shapes, st.sampled_from([np.float32, np.float64, np.int8, np.bool_])),
    max_size=3,
)


@settings(quick, max_examples=10)
@given(changed)
def test_state_dictionaries_with_other_arrays(tmp_path, network, few_networks, changes):
    state_dict = dict(network)
    for key, change in changes.items():
        state_dict.pop(key, None)
        if change is not None:
            state_dict[key] = np.ones(*change)
    (tmp_path / "a").write_bytes(save(state_dict))
    with contextlib.suppress(ResnetJaxError):
        rn.load_pretrained("cifar_resnet20", tmp_path / "a")

"""Files as people have them: whole ones give their tensors, and every other one is refused in one line."""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxtl.errors import CheckpointError, InputError
from jaxtl.pretrained import torch_reader
from jaxtl.pretrained.readers import FILES, read_source
from tests.pretrained import torch_files
from tests.pretrained.torch_files import Asks, Tensor

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float16([1, 2]), "c": np.array(3.0)}


def same(found, expected):
  assert set(found) == set(expected)
  for key, value in expected.items():
    np.testing.assert_array_equal(found[key], value)
    assert found[key].dtype == value.dtype


def test_safetensors_and_npz_give_what_was_stored(tmp_path):
  save_file(TENSORS, tmp_path / "x.safetensors")
  np.savez(tmp_path / "x.npz", **TENSORS)
  for name in ("x.safetensors", "x.npz"):
    source = read_source(tmp_path / name)
    same(source.tensors, TENSORS)
    assert source.path == tmp_path / name
    assert source.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
  values = np.array([1.0, -2.5, 3e38, 1e-30], np.float32)
  halves = np.asarray(jnp.asarray(values, jnp.bfloat16))
  np.savez(tmp_path / "x.npz", w=halves)
  save_file({"w": halves}, tmp_path / "x.safetensors")
  for name in ("x.npz", "x.safetensors"):
    found = read_source(tmp_path / name).tensors["w"].astype(np.float32)
    np.testing.assert_array_equal(found, halves.astype(np.float32))


def test_shards_are_read_as_one_file(tmp_path):
  save_file({"a": TENSORS["a"]}, tmp_path / "one.safetensors")
  save_file({"b": TENSORS["b"], "c": TENSORS["c"]}, tmp_path / "two.safetensors")
  index = tmp_path / "model.safetensors.index.json"
  shards = {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
  index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
  same(read_source(index).tensors, TENSORS)
  assert read_source(tmp_path).path == index
  before = read_source(index).sha256
  save_file({"b": TENSORS["b"] + 1, "c": TENSORS["c"]}, tmp_path / "two.safetensors")
  assert read_source(index).sha256 != before
  (tmp_path / "two.safetensors").unlink()
  with pytest.raises(
    CheckpointError, match=r"names two\.safetensors, which is not a \.safetensors file in its folder"
  ):
    read_source(index)


@pytest.mark.parametrize("text", ["[1]", "{", "{}", '{"weight_map": []}', '{"weight_map": {"a": {}}}'])
def test_an_index_of_nothing_is_refused(tmp_path, text):
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(text)
  with pytest.raises(
    CheckpointError, match=r"is not an index|which is not a \.safetensors file in its folder"
  ):
    read_source(index)


@pytest.mark.parametrize(
  "name",
  [
    "../x.safetensors",
    "/x.safetensors",
    "a/../../x.safetensors",
    "..\\x.safetensors",
    "x.bin",
    "x.safetensors\n",
  ],
)
def test_an_index_names_no_file_outside_its_folder(tmp_path, name):
  (tmp_path / "in").mkdir()
  for place in (tmp_path, tmp_path / "in"):
    save_file(TENSORS, place / "x.safetensors")
  (tmp_path / "in" / "x.bin").write_bytes(b"")
  index = tmp_path / "in" / "model.safetensors.index.json"
  index.write_text(
    json.dumps({"weight_map": {"a": str(tmp_path / "x.safetensors") if name[0] == "/" else name}})
  )
  with pytest.raises(CheckpointError, match=r"which is not a \.safetensors file in its folder") as caught:
    read_source(index)
  assert "\n" not in str(caught.value)


def test_shards_of_the_hubs_cache_are_links(tmp_path):
  (tmp_path / "blobs").mkdir()
  (tmp_path / "snapshot").mkdir()
  save_file(TENSORS, tmp_path / "blobs" / "0123")
  (tmp_path / "snapshot" / "one.safetensors").symlink_to(tmp_path / "blobs" / "0123")
  index = tmp_path / "snapshot" / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, "one.safetensors")}))
  same(read_source(index).tensors, TENSORS)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"])
def test_numbers_of_a_type_that_is_not_read_are_named(tmp_path, kind):
  shape = [8]
  header = {"w": {"dtype": kind, "shape": shape, "data_offsets": [0, 4 if kind == "F4" else 8]}}
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  path = tmp_path / "x.safetensors"
  path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * header["w"]["data_offsets"][1])
  with pytest.raises(CheckpointError, match=f"stores w as {kind}, which jaxtl does not read") as caught:
    read_source(path)
  assert "\n" not in str(caught.value)


def test_of_a_folder_the_first_known_file_is_read(tmp_path):
  with pytest.raises(InputError, match=r"holds no weights; expected one of model\.safetensors"):
    read_source(tmp_path)
  np.savez(tmp_path / "model.npz", **TENSORS)
  assert read_source(tmp_path).path.name == "model.npz"
  save_file(TENSORS, tmp_path / "open_clip_model.safetensors")
  assert read_source(tmp_path).path.name == "open_clip_model.safetensors"
  save_file(TENSORS, tmp_path / "model.safetensors")
  assert read_source(tmp_path).path.name == FILES[0] == "model.safetensors"


def whole(path):
  if path.suffix == ".npz":
    np.savez_compressed(path, w=np.random.default_rng(0).standard_normal(1000))
  else:
    save_file({"w": np.zeros(1000, np.float32)}, path)
  return path.read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
  "damage",
  [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no weights at all, only a text"],
  ids=["truncated", "empty", "text"],
)
def test_a_damaged_file_is_refused(tmp_path, suffix, damage):
  path = tmp_path / f"x{suffix}"
  path.write_bytes(damage(whole(path)))
  with pytest.raises(CheckpointError, match=f"x{suffix} cannot be read as ") as caught:
    read_source(path)
  assert "\n" not in str(caught.value)


def test_a_flipped_bit_inside_an_npz_is_noticed(tmp_path):
  data = bytearray(whole(tmp_path / "x.npz"))
  data[len(data) // 2] ^= 1
  (tmp_path / "x.npz").write_bytes(data)
  with pytest.raises(CheckpointError, match="cannot be read as npz"):
    read_source(tmp_path / "x.npz")


def test_an_npz_with_objects_or_of_other_things_is_refused(tmp_path):
  path = tmp_path / "x.npz"
  np.savez(path, w=np.array([{"a": 1}], dtype=object))
  with pytest.raises(CheckpointError, match="cannot be read as npz: Object arrays cannot be loaded"):
    read_source(path)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("readme.txt", "hello")
  with pytest.raises(CheckpointError, match="is not an archive of arrays"):
    read_source(path)
  with path.open("wb") as stream:
    np.save(stream, np.zeros(3))
  with pytest.raises(CheckpointError, match="is not an archive of arrays"):
    read_source(path)


def test_a_file_without_tensors_is_refused(tmp_path):
  save_file({}, tmp_path / "x.safetensors")
  np.savez(tmp_path / "x.npz")
  for name in ("x.safetensors", "x.npz"):
    with pytest.raises(CheckpointError, match="holds no tensors"):
      read_source(tmp_path / name)


def test_what_is_not_there_or_not_known_is_refused(tmp_path):
  with pytest.raises(InputError, match="no file at "):
    read_source(tmp_path / "none.safetensors")
  (tmp_path / "x.h5").write_bytes(b"")
  with pytest.raises(InputError, match=r"is not one of \.safetensors, \.npz, \.pth, .*, \.ckpt; convert it"):
    read_source(tmp_path / "x.h5")


STATE = OrderedDict(
  weight=Tensor(TENSORS["a"]),
  turned=Tensor(TENSORS["a"], view=(1, (2, 2), (1, 3))),  # a view that is not contiguous
  half=Tensor(TENSORS["b"]),
  bfloat16=Tensor(np.uint16([0x3F80, 0xC020]), storage="BFloat16Storage"),
  counter=Tensor(np.int64(7)),
  empty=Tensor(np.zeros((0, 3), np.float32)),
)
VALUES = {
  "weight": TENSORS["a"],
  "turned": np.array([[1, 4], [2, 5]], np.float32),
  "half": TENSORS["b"],
  "bfloat16": np.array([1, -2.5], np.float32),
  "counter": np.array(7),
  "empty": np.zeros((0, 3), np.float32),
}
TRAINING = dict(
  epoch=3,
  metric=np.float64(0.7),
  best=np.int64(3),
  args=argparse.Namespace(lr=0.1, out=Path("runs"), mean=(0.5, 0.5), dtype=np.dtype("float32")),
  milestones=Counter([30, 60]),
  rng=np.arange(3),
  hyper_parameters=torch_files.name("pytorch_lightning.utilities.parsing.AttributeDict")(),
  callbacks={
    torch_files.name("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"): {"best": Tensor([1.0])}
  },
  device=Asks("torch.device", "cuda"),
  optimizer={"state": {0: {"exp_avg": Tensor(TENSORS["a"])}}},
)


@pytest.mark.parametrize("kinds", [{}, {"legacy": True}, {"big": True}], ids=str)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar", ".ckpt"])
def test_a_torch_file_gives_its_tensors(tmp_path, kinds, suffix):
  source = read_source(torch_files.save(STATE, tmp_path / f"x{suffix}", **kinds))
  same(source.tensors, VALUES)
  assert source.below == ""


@pytest.mark.parametrize("legacy", [False, True])
def test_what_a_training_stores_beside_its_weights_is_left_unread(tmp_path, legacy):
  stored = TRAINING | {"state_dict": STATE}
  source = read_source(torch_files.save(stored, tmp_path / "last.ckpt", legacy=legacy))
  same(source.tensors, VALUES)
  assert source.below == "state_dict"


def test_the_moving_average_is_read_where_there_is_one(tmp_path):
  other = {key: Tensor(np.zeros(1)) for key in STATE}
  stored = TRAINING | {"state_dict": other, "state_dict_ema": STATE}
  source = read_source(torch_files.save(stored, tmp_path / "last.pth.tar"))
  same(source.tensors, VALUES)
  assert source.below == "state_dict_ema"


def test_parameters_and_tensors_with_attributes_are_read(tmp_path):
  inner = Asks("torch._utils._rebuild_parameter", Tensor([1.0, 2.0]), True, OrderedDict())
  storage = torch_files.Storage(Tensor([3.0, 4.0]))
  given = (storage, 1, (1,), (1,), False, OrderedDict())
  rebuild, plain = torch_files.name("torch._utils._rebuild_tensor_v2"), torch_files.name("torch.Tensor")
  outer = Asks("torch._tensor._rebuild_from_type_v2", rebuild, plain, given, {"note": 1})
  found = read_source(torch_files.save({"p": inner, "t": outer}, tmp_path / "x.pth")).tensors
  same(found, {"p": np.array([1.0, 2.0]), "t": np.array([4.0])})


def knot():
  """Dictionaries that hold themselves, and each other many times."""
  stored = inside = {}
  for _ in range(40):
    inside["a"] = inside["b"] = inside = {}
  return stored


def ring(key):
  stored = {}
  stored[key] = stored
  return stored


def typed(dtype):
  """What rebuilds a tensor of a type that has no storage of its own."""
  given = (
    torch_files.Storage(Tensor(np.zeros(8, np.uint8), storage="storage.UntypedStorage")),
    0,
    (1,),
    (1,),
  )
  return (*given, False, OrderedDict(), torch_files.name(f"torch.{dtype}"))


TOO_MUCH = {
  "imports os.system": Asks("os.system", "touch started"),
  "imports posix.system": Asks("posix.system", "touch started"),
  "imports builtins.eval": Asks("builtins.eval", "open('started', 'w')"),
  "imports builtins.getattr": Asks("__builtin__.getattr", 1, "real"),
  "imports subprocess.Popen": Asks("subprocess.Popen", ["touch", "started"]),
  "imports torch.load": Asks("torch.load", "x"),
  "imports torch.storage._load_from_bytes": Asks("torch.storage._load_from_bytes", b""),
  "imports numpy.load": Asks("numpy.load", "x"),
  "imports mylab.Model": Asks("mylab.Model"),
}
NOT_TENSORS = {
  "holds a list": [1],
  "holds a int": 3,
  "holds an object": argparse.Namespace(),
  "holds complex64": {"a": Asks("torch._utils._rebuild_tensor_v3", *typed("complex64"))},
  "holds float8_e4m3fn": {"a": Asks("torch._utils._rebuild_tensor_v3", *typed("float8_e4m3fn"))},
  "reaches beyond its storage": {"a": Tensor([1.0, 2.0], view=(1, (2,), (1,)))},
  "not a strided array of numbers": {"a": Tensor([1.0, 2.0], view=(1, (2,), (-1,)))},
  "repeat the same numbers": {"a": Tensor([1.0, 2.0], view=(0, (10**9,), (0,)))},
  "endlessly": knot(),
  "not tensors by name": ring("model"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("message", TOO_MUCH)
def test_a_pickle_that_imports_anything_else_runs_nothing(tmp_path, monkeypatch, message, legacy):
  monkeypatch.chdir(tmp_path)
  path = torch_files.save(STATE | {"x": TOO_MUCH[message]}, tmp_path / "x.pth", legacy=legacy)
  with pytest.raises(CheckpointError, match=f"it is a pickle that {message}, and only tensors are read"):
    read_source(path)
  assert not Path("started").exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("message", NOT_TENSORS)
def test_a_pickle_without_tensors_to_read_is_refused(tmp_path, message, legacy):
  path = torch_files.save(NOT_TENSORS[message], tmp_path / "x.pth", legacy=legacy)
  with pytest.raises(CheckpointError, match=message) as caught:
    read_source(path)
  assert "\n" not in str(caught.value)


def torch_archive(path, data, values=bytes(16)):
  """An archive of torch's with this data.pkl, and one storage, "0"."""
  with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
    archive.writestr("archive/data.pkl", data)
    archive.writestr("archive/data/0", values)
  return path


def test_a_length_that_a_torch_file_only_claims_is_no_bound(tmp_path):
  """372 bytes that say they hold 2**60 numbers may not become 2**34."""
  made = torch_files.save({"w": Tensor([1.0, 2.0], view=(0, (2**34,), (0,)))}, tmp_path / "x.pth")
  with zipfile.ZipFile(made) as archive:
    data = archive.read("archive/data.pkl")
  assert b"K\x02tq" in data  # the length, last of what names the storage
  longer = data.replace(b"K\x02tq", b"\x8a\x08" + (2**60).to_bytes(8, "little") + b"tq")
  path = torch_archive(tmp_path / "y.pth", longer)
  assert (
    reason_of(path, tmp_path / "out.safetensors") == "its tensors repeat the same numbers many times over"
  )


@pytest.mark.skipif(sys.platform != "linux", reason="the bound is Linux's")
def test_a_pickle_cannot_fill_the_memory(tmp_path):
  """An index of 2**31 - 1 makes the unpickler ask for a table of 32 GiB."""
  path = torch_archive(tmp_path / "x.pth", b"\x80\x02Nr\xff\xff\xff\x7f.")
  with pytest.raises(CheckpointError, match="it takes far more memory than a file of its size should"):
    read_source(path)


def test_a_storage_is_read_once_however_many_tensors_are_views_of_it(tmp_path, monkeypatch):
  values = np.arange(12, dtype=np.float32)
  views = {f"w{at}": Tensor(values, view=(at, (2,), (3,))) for at in range(9)}
  path = torch_files.save(views, tmp_path / "x.pth")
  reads, read = [], zipfile.ZipFile.read
  monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, *given: reads.append(given) or read(self, *given))
  assert reason_of(path, tmp_path / "out.safetensors") is None
  assert len(reads) == 2  # the byte order, and the numbers
  found = load_file(tmp_path / "out.safetensors")
  assert {name: list(value) for name, value in found.items()} == {f"w{at}": [at, at + 3] for at in range(9)}


def test_two_tensors_of_one_name_are_refused(tmp_path):
  stored = {"a.b": Tensor([1.0]), "a": {"b": Tensor([2.0])}}
  path = torch_files.save(stored, tmp_path / "x.pth")
  assert "two tensors that are both named 'a.b'" in reason_of(path, tmp_path / "out.safetensors")


def test_a_tensor_that_torch_negates_when_it_is_read_is_refused(tmp_path):
  typed_float = typed("float32")
  for marks, refused in (({"neg": True}, True), ({"conj": True}, True), ({"neg": False}, False), ({}, False)):
    asked = Asks("torch._utils._rebuild_tensor_v3", *typed_float, marks)
    path = torch_files.save({"a": asked}, tmp_path / "x.pth")
    reason = reason_of(path, tmp_path / "out.safetensors")
    assert reason is None or refused
    assert not refused or "torch negates" in reason


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bfloat16_without_axes_is_read(tmp_path, legacy):
  number = (np.array([4.6052], np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
  scale = Tensor(number.view(np.float16), storage="BFloat16Storage", view=(0, (), ()))
  found = read_source(torch_files.save({"logit_scale": scale}, tmp_path / "x.pth", legacy=legacy)).tensors
  assert found["logit_scale"].shape == ()
  assert found["logit_scale"].dtype == np.float32
  assert float(found["logit_scale"]) == 4.59375  # bfloat16 has 8 bits: steps of 1 / 32


def test_a_torchscript_archive_is_refused(tmp_path):
  path = torch_files.save(STATE, tmp_path / "x.pt")
  with zipfile.ZipFile(path, "a") as archive:
    archive.writestr("archive/constants.pkl", b"")
  with pytest.raises(CheckpointError, match="it is a TorchScript archive, which is a program"):
    read_source(path)


def reason_of(path, out):
  """Why the reader gives up, in this process; None where it does not."""
  try:
    torch_reader.main(str(path), str(out))
  except SystemExit as stop:
    return str(stop.code)
  return None


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_torch_files_are_read_or_refused_in_one_line(tmp_path, legacy):
  """In this process, which is quick; a flipped bit inside a pickle may give another whole pickle."""
  path = torch_files.save(TRAINING | {"state_dict": STATE}, tmp_path / "x.pth", legacy=legacy)
  whole, rng = path.read_bytes(), random.Random(0)
  refused = 0
  for _ in range(300):
    data = bytearray(whole)
    if rng.random() < 0.3:
      del data[rng.randrange(len(data)) :]
    for _ in range(rng.choice((1, 1, 3, 30))):
      if data:
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    reason = reason_of(path, tmp_path / "out.safetensors")
    assert reason is None or len(reason.splitlines()) == 1
    refused += reason is not None
  assert refused > 100


@pytest.mark.parametrize(
  ("code", "stderr", "message"),
  [
    (1, "a warning\nit holds a list, not tensors by name\n", "it holds a list"),
    (-9, "", "it was killed"),
  ],
)
def test_the_last_line_of_the_torch_reader_is_the_reason(tmp_path, monkeypatch, code, stderr, message):
  seen = []

  def run(command, **_):
    seen.append(command)
    return subprocess.CompletedProcess(command, code, "", stderr)

  monkeypatch.setattr(subprocess, "run", run)
  (tmp_path / "x.pth").write_bytes(b"anything")
  with pytest.raises(CheckpointError, match=rf"x\.pth cannot be read: {message}"):
    read_source(tmp_path / "x.pth")
  assert seen[0][:2] == [sys.executable, "-P"]  # nothing beside the script is imported in torch's place

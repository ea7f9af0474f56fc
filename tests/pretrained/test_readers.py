"""Files as people have them: whole ones give their tensors, and every other one is refused in one line."""

import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxtl.errors import CheckpointError, InputError
from jaxtl.pretrained.readers import FILES, read_source
from jaxtl.pretrained.torch_reader import _reason

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
  with pytest.raises(CheckpointError, match=r"names two\.safetensors, which is not beside it"):
    read_source(index)


@pytest.mark.parametrize("text", ["[1]", "{", "{}", '{"weight_map": []}', '{"weight_map": {"a": {}}}'])
def test_an_index_of_nothing_is_refused(tmp_path, text):
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(text)
  with pytest.raises(CheckpointError, match=r"is no index|which is not beside it"):
    read_source(index)


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
  with pytest.raises(CheckpointError, match="is no archive of arrays"):
    read_source(path)
  with path.open("wb") as stream:
    np.save(stream, np.zeros(3))
  with pytest.raises(CheckpointError, match="is no archive of arrays"):
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
  with pytest.raises(InputError, match=r"is none of \.safetensors, \.npz, \.pth, \.pt, \.bin; convert it"):
    read_source(tmp_path / "x.h5")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_a_pickle_without_torch_says_what_to_do(tmp_path, monkeypatch, suffix):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  (tmp_path / f"x{suffix}").write_bytes(b"anything")
  with pytest.raises(InputError, match=r"needs torch: pip install torch, or save it as safetensors"):
    read_source(tmp_path / f"x{suffix}")


@pytest.mark.parametrize(
  ("code", "stderr", "message"),
  [
    (1, "a warning\nit holds a list, and not tensors by name\n", "it holds a list"),
    (-9, "", "it was killed"),
  ],
)
def test_the_last_line_of_the_torch_reader_is_the_reason(tmp_path, monkeypatch, code, stderr, message):
  seen = []

  def run(command, **_):
    seen.append(command)
    return subprocess.CompletedProcess(command, code, "", stderr)

  monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
  monkeypatch.setattr(subprocess, "run", run)
  (tmp_path / "x.pth").write_bytes(b"anything")
  with pytest.raises(CheckpointError, match=rf"x\.pth cannot be read: {message}"):
    read_source(tmp_path / "x.pth")
  assert seen[0][:2] == [sys.executable, "-P"]  # nothing beside the script is imported in torch's place


WEIGHTS_ONLY = "Weights only load failed. In PyTorch 2.6, we changed the default value of `weights_only`.\n"


@pytest.mark.parametrize(
  ("error", "reason"),
  [
    (
      RuntimeError("Cannot use ``weights_only=True`` with TorchScript archives passed to ``torch.load``."),
      "it is a TorchScript archive, which is a program",
    ),
    (
      ValueError(f"{WEIGHTS_ONLY}Unsupported global: GLOBAL a.b.Foo was not an allowed global by default."),
      "it is a pickle that asks for a.b.Foo, and only tensors are read",
    ),
    (
      ValueError(f"{WEIGHTS_ONLY}Trying to load unsupported GLOBAL posix.system whose module is blocked."),
      "it is a pickle that asks for posix.system, and",
    ),
    (
      ValueError(f"{WEIGHTS_ONLY}WeightsUnpickler error:\n\nUnsupported operand 149\n\nCheck the documents"),
      "it is a pickle that holds more than tensors, and",
    ),
    (
      RuntimeError("PytorchStreamReader failed reading zip archive:\nfailed finding central directory"),
      "PytorchStreamReader failed reading zip archive: failed finding central directory",
    ),
    (EOFError(), "it is no file of torch's"),
    (KeyError("101"), "it is no file of torch's"),
    (RuntimeError(), "RuntimeError"),
  ],
)
def test_what_torch_says_becomes_one_plain_line(error, reason):
  found = _reason(error)
  assert found.startswith(reason)
  assert "\n" not in found

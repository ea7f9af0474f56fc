"""Five hundred mutations of configs and manifests: every one is used or refused in one line."""

import copy
import json
import random
import re

import pytest

from jaxtl.checkpoints import checkpoint, manifest
from jaxtl.errors import CheckpointError, InputError
from jaxtl.runner.config_file import parse_config
from tests.small_study import study_config
from tests.small_training import runtime, tiny

pytestmark = pytest.mark.slow

__all__ = ["runtime", "study_config", "tiny"]  # fixtures
STRANGE = (
  None,
  True,
  -1,
  0,
  1e400,
  float("nan"),
  "",
  "x",
  "../x",
  [],
  [[]],
  {},
  {"make": "os.system"},
  {"fn": 3},
  2**70,
)


def places(value, at=()):
  """Every path in nested mappings and lists."""
  items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
  for key, item in items:
    yield (*at, key)
    yield from places(item, (*at, key))


def mutated(value, rng):
  """A copy with one thing removed, replaced, renamed or moved."""
  value = copy.deepcopy(value)
  *parents, last = rng.choice(list(places(value)))
  node = value
  for key in parents:
    node = node[key]
  kind = rng.choice(("remove", "replace", "rename", "swap"))
  if kind == "remove":
    del node[last]
  elif kind == "rename" and isinstance(node, dict):
    node[str(last) + rng.choice(("", "s", ".", " ", "é"))] = node.pop(last)
  elif kind == "swap":
    node[last] = [node[last]] if rng.random() < 0.5 else {"x": node[last]}
  else:
    node[last] = rng.choice(STRANGE)
  return value


def refusal(action, kind):
  """The line in which the action refuses; None where it does not. Any other error fails the test."""
  try:
    action()
  except kind as error:
    said = str(error)
  else:
    return None
  assert said
  assert "\n" not in said
  return said


def test_mutated_configs_are_parsed_or_refused_in_one_line(study_config):
  rng = random.Random(0)
  refused = 0
  for _ in range(500):
    config = json.loads(json.dumps(study_config))
    for _ in range(rng.choice((1, 1, 2))):
      config = mutated(config, rng)
    refused += refusal(lambda config=config: parse_config(config), InputError) is not None
  assert refused > 250


@pytest.fixture
def step(tiny, runtime, tmp_path):
  from jaxtl import train

  train.run(tiny(epochs=0.2, evaluation={}), seed=0, runtime=runtime(), workdir=tmp_path)
  return tmp_path / "checkpoints" / "1"


def test_mutated_manifests_are_refused_in_one_line(step):
  """With the right digest, as somebody would write it who knows how."""
  rng = random.Random(1)
  path = step / manifest.NAME
  plain = json.loads(path.read_text())
  refused = 0
  for _ in range(250):
    value = mutated(plain, rng)
    if rng.random() < 0.7 and "digest" in value and rng.random() < 0.9:
      value["digest"] = _digest_of(value)
    path.write_text(json.dumps(value))
    said = refusal(lambda: checkpoint.load(step), CheckpointError)
    if said is not None:
      refused += 1
      assert re.search(r"use another|does not fit|cannot be read", said), said
  assert refused > 200


def test_mutated_bytes_of_manifests_are_refused_in_one_line(step):
  rng = random.Random(2)
  path = step / manifest.NAME
  original = path.read_bytes()
  for _ in range(250):
    data = bytearray(original)
    for _ in range(rng.choice((1, 3, 50))):
      data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(bytes(data) if rng.random() < 0.8 else bytes(data[: rng.randrange(len(data))]))
    if path.read_bytes() == original:
      continue
    with pytest.raises(CheckpointError, match=r"use another|manifest"):
      checkpoint.load(step)


def _digest_of(value):
  """What the manifest's own digest would be, where it can be computed at all."""
  try:
    leaves = {k: manifest.Leaf(tuple(v[0]), v[1], v[2]) for k, v in value["leaves"].items()}
    files = {k: (v[0], v[1]) for k, v in value["files"].items()}
    return manifest.Manifest(value["step"], leaves, files).digest
  except Exception:  # whatever is wrong with it, the digest stays wrong
    return value["digest"]

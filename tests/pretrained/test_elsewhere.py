"""Exports in a process that has never heard of jaxtl: the same arrays, and the same outputs on raw pixels."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import tree
from jaxtl.pretrained.exporting import export
from tests.pretrained.made_weights import CLASSES, VIT, as_weights

READ = {
  "safetensors": "from safetensors.numpy import load_file\nfound = load_file(f'{out}/model.safetensors')",
  "npz": "found = dict(np.load(f'{out}/model.npz'))",
  "orbax": (
    "import jax, orbax.checkpoint as ocp\n"
    "restored = ocp.StandardCheckpointer().restore(f'{out}/model')\n"
    "leaves = jax.tree_util.tree_flatten_with_path(restored)[0]\n"
    "found = {'/'.join(key.key for key in path): np.asarray(x) for path, x in leaves}"
  ),
}
RUN = (
  "import jax.export\n"
  "program = jax.export.deserialize(open(f'{out}/model.stablehlo', 'rb').read())\n"
  "images = dict(np.load(f'{out}/../images.npz'))\n"
  "outs = {name: program.call(x) for name, x in images.items()}\n"
  "found = {f'{name}/{key}': np.asarray(y) for name, out in outs.items() for key, y in out.items()}"
)


def elsewhere(folder, code):
  """What the code finds, in a process whose import path has no jaxtl."""
  body = (
    f"import sys, numpy as np\nout = sys.argv[1]\n{code}\nnp.savez(f'{{sys.argv[1]}}.found.npz', **found)\n"
  )
  body += "assert not [name for name in sys.modules if name.split('.')[0] == 'jaxtl']\n"
  script = folder.parent / "read.py"
  script.write_text(body)
  done = subprocess.run(
    [sys.executable, "-P", script, folder], capture_output=True, text=True, cwd=folder.parent
  )
  assert done.returncode == 0, done.stderr
  with np.load(f"{folder}.found.npz") as found:
    return dict(found)


@pytest.mark.parametrize("form", READ)
def test_the_arrays_are_the_same_elsewhere(tmp_path, form):
  weights = as_weights("resnet8", width=2)
  export(weights, tmp_path / "out", format=form)
  found = elsewhere(tmp_path / "out", READ[form])
  both = {"params": weights.params, "batch_stats": weights.batch_stats}
  expected = dict(zip(tree.paths(both), jax.tree.leaves(both), strict=True))
  assert set(found) == set(expected)
  for path, value in expected.items():
    np.testing.assert_array_equal(found[path], value)


@pytest.mark.parametrize(
  ("name", "keywords", "classes"),
  [
    ("resnet8", dict(width=2), CLASSES),
    ("mobilenet_v1", dict(width_factor=0.1), CLASSES),  # depthwise convolutions have a path of their own
    ("vit_ti16", dict(image_size=16, **VIT), CLASSES),
    ("vit_ti16", dict(image_size=16, pooling="distilled", **VIT), ()),
  ],
)
def test_the_program_takes_pixels_and_gives_what_our_model_gives(tmp_path, name, keywords, classes):
  weights = as_weights(name, classes=classes, **keywords)
  export(weights, tmp_path / "out", format="stablehlo")
  rng = np.random.default_rng(0)
  images = {f"b{b}": rng.integers(0, 256, (b, 16, 16, 3)).astype(np.uint8) for b in (1, 5)}
  np.savez(tmp_path / "images.npz", **images)
  found = elsewhere(tmp_path / "out", RUN)
  model = jax.jit(weights.model_spec().realize(num_classes=len(classes)).apply)
  mean, std = np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.3, 0.4])
  for batch, pixels in images.items():
    x = (pixels.astype(np.float32) / 255 - mean) / std
    features, _ = model(weights.params, weights.batch_stats, jnp.asarray(x))
    given = {key.partition("/")[2] for key in found if key.startswith(batch)}
    assert given == ({"logits", "pooled"} if classes else {"pooled"})
    for key in given:
      expected = np.asarray(features[key])
      error = np.abs(found[f"{batch}/{key}"] - expected).max()
      assert error < 1e-5 * np.abs(expected).max()

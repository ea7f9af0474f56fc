"""`jaxtl import` as a user types it: what it writes, what each option does, and what it refuses."""

import hashlib
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import cli
from jaxtl.checkpoints import checkpoint
from jaxtl.pretrained import importing
from tests.pretrained.made_weights import CLASSES, VIT, VIT_KEYWORDS, made, refused, save, small_vit

pytestmark = pytest.mark.slow


def same(weights, ours):
  jax.tree.map(np.testing.assert_array_equal, weights.params, ours["params"])
  jax.tree.map(np.testing.assert_array_equal, weights.batch_stats, ours["batch_stats"])


def nothing_written(out):
  return list(out.parent.iterdir()) == []


def test_a_file_becomes_a_checkpoint_with_all_that_is_known_of_it(imported, vit, out, tmp_path):
  weights, text = imported()
  same(weights, vit.ours)
  config = weights.config
  assert config["model"] == {"make": ".models.vit_ti16", **VIT, "image_size": 16}
  assert config["image_shape"] == [16, 16, 3]
  assert config["classes"] == list(CLASSES)
  assert json.loads((out / "classes.json").read_text()) == list(CLASSES)
  assert config["transforms"] == [
    dict(fn=".data.resize", size=17, interpolation="bicubic"),
    dict(fn=".data.center_crop", size=16),
    dict(fn=".data.normalize", mean=[0.5] * 3, std=[0.5] * 3),
  ]
  digest = hashlib.sha256((tmp_path / "weights.safetensors").read_bytes()).hexdigest()
  assert config["source"] == {"file": "weights.safetensors", "sha256": digest, "layout": "timm"}
  assert text.endswith(f"wrote {out}\n")
  assert list(out.parent.iterdir()) == [out]


def test_the_table_has_a_line_for_every_array(imported, vit):
  _, text = imported()
  for entry in vit.entries:
    line = next(line for line in text.splitlines() if line.startswith(f"{entry.path} "))
    assert "x".join(map(str, entry.shape)) in line
    assert entry.rule.text in line
    assert line.endswith(entry.keys[0])
  assert f"{len(vit.entries)} arrays of {len(vit.theirs)} tensors" in text
  assert "3 classes, inputs of 16 x 16 x 3" in text


def test_a_convolutional_network_brings_its_statistics(tmp_path, out, class_list):
  resnet = made("torchvision", "resnet18", size=32, width=2)
  counted = resnet.theirs | {"bn1.num_batches_tracked": np.array(7)}
  path = save(tmp_path / "resnet.safetensors", counted)
  arguments = ["import", path, "--as", "resnet18", "--layout", "torchvision", "width=2", "--image-size", "32"]
  assert cli.main([str(a) for a in (*arguments, "--classes", class_list, "--out", out)]) == 0
  weights = checkpoint.load(out)
  same(weights, resnet.ours)
  assert set(weights.batch_stats) == set(resnet.ours["batch_stats"])
  assert weights.config["image_shape"] == [32, 32, 3]


def test_a_text_tower_has_no_classes_and_no_preprocessing(tmp_path, out, capsys):
  sizes = dict(width=8, depth=1, num_heads=2, embed_dim=4, vocabulary=9, context=5)
  text = made("openai", "clip_text_b", size=5, **sizes)
  image = made(
    "openai", "clip_vit_b32", size=16, image_size=16, patch_size=8, width=8, depth=1, num_heads=2, embed_dim=4
  )
  both = text.theirs | {key: value for key, value in image.theirs.items() if "classifier" not in key}
  path = save(tmp_path / "clip.safetensors", both)
  keywords = [f"{key}={value}" for key, value in sizes.items()]
  arguments = ["import", path, "--as", "clip_text_b", "--layout", "openai", "--out", out, *keywords]
  assert cli.main([str(a) for a in arguments]) == 0
  weights = checkpoint.load(out)
  same(weights, text.ours)
  assert weights.classes == ()
  assert weights.config["image_shape"] == [5]
  assert weights.config["transforms"] is None
  assert f"of another model: {len(both) - len(text.theirs)} tensors" in capsys.readouterr().out


def test_the_default_folder_is_named_after_the_model(vit_command, out, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  arguments = vit_command()
  del arguments[arguments.index("--out") : arguments.index("--out") + 2]
  assert cli.main(arguments) == 0
  assert checkpoint.load(tmp_path / "runs" / "import" / "vit_ti16").classes == CLASSES


def test_classes_may_be_lines_of_text(imported, tmp_path):
  (tmp_path / "names.txt").write_text("x\ny\nz\n")
  weights, _ = imported("--classes", tmp_path / "names.txt", classes=False)
  assert weights.classes == ("x", "y", "z")


def test_a_thousand_outputs_are_imagenets(imported):
  for count, first in ((1000, "n01440764 tench, Tinca tinca"), (1001, "background")):
    assert importing._class_names(count, None, None)[0] == first
  weights, _ = imported(tensors=small_vit("timm", num_classes=1000).theirs, classes=False)
  assert weights.classes == importing.imagenet_classes()
  assert len(set(weights.classes)) == 1000


def test_a_file_without_a_classifier_has_no_classes(imported, vit):
  headless = {key: value for key, value in vit.theirs.items() if not key.startswith("head.")}
  weights, text = imported(tensors=headless, classes=False)
  assert weights.classes == ()
  assert "head" not in weights.params
  assert "no classes" in text


def test_a_missing_array_may_be_drawn_anew(imported, vit):
  some = {key: value for key, value in vit.theirs.items() if key != "norm.bias"}
  weights, text = imported("--allow", "^params/norm/bias$", tensors=some)
  np.testing.assert_array_equal(weights.params["norm"]["bias"], np.zeros(8))
  same(weights, {**vit.ours, "params": {**vit.ours["params"], "norm": weights.params["norm"]}})
  assert "not in the file, initialised: params/norm/bias" in text
  assert f"{len(vit.entries) - 1} arrays" in text


def test_a_tensor_may_be_left_over(imported, vit):
  weights, text = imported(
    "--allow",
    "^pre_",
    "--allow",
    "^aux",
    tensors=vit.theirs | {"pre_logits.bias": np.zeros(2), "aux": np.ones(1)},
  )
  same(weights, vit.ours)
  assert "in the file, left out: aux, pre_logits.bias" in text


def test_a_head_of_another_shape_may_be_drawn_anew(imported, vit, tmp_path):
  (tmp_path / "two.json").write_text('["x", "y"]')
  options = ("num_classes=2", "--allow", "^params/head/", "--classes", tmp_path / "two.json")
  weights, _ = imported(*options, classes=False)
  assert weights.params["head"]["kernel"].shape == (8, 2)
  np.testing.assert_array_equal(weights.params["norm"]["scale"], vit.ours["params"]["norm"]["scale"])


@pytest.mark.parametrize(
  ("options", "resize", "normalize"),
  [
    (["--crop-fraction", "0.5"], dict(size=32), {}),
    (["--crop-fraction", "none"], dict(size=[16, 16]), {}),
    (["--interpolation", "bilinear"], dict(interpolation="bilinear"), {}),
    (["--mean", "0.1,0.2,0.3"], {}, dict(mean=[0.1, 0.2, 0.3])),
    (["--std", "1,2,3"], {}, dict(std=[1.0, 2.0, 3.0])),
  ],
)
def test_the_preprocessing_is_what_the_options_say(imported, options, resize, normalize):
  transforms = imported(*options)[0].config["transforms"]
  usual = [dict(fn=".data.resize", size=17, interpolation="bicubic")]
  usual += [dict(fn=".data.normalize", mean=[0.5] * 3, std=[0.5] * 3)]
  assert [transforms[0], transforms[-1]] == [usual[0] | resize, usual[1] | normalize]
  assert len(transforms) == (2 if "none" in options else 3)


@pytest.mark.parametrize("value", ["stored", "upright"])
def test_whether_images_are_turned_goes_into_the_preprocessing(imported, value):
  ignore = dict(fn=".data.to_rgb", upright=False)
  transforms = imported("--orientation", value)[0].config["transforms"]
  assert (transforms[0] == ignore) == (value == "stored")


def test_a_keyword_changes_the_model(imported):
  weights, _ = imported("activation=gelu_tanh", "norm_epsilon=1e-5")
  assert weights.config["model"]["activation"] == "gelu_tanh"
  assert weights.config["model"]["norm_epsilon"] == 1e-5


def test_the_grid_of_the_file_decides_where_nothing_is_said(imported):
  weights, _ = imported(tensors=small_vit("timm", size=24).theirs)
  assert weights.config["model"]["image_size"] == 24
  assert weights.config["image_shape"] == [24, 24, 3]


@pytest.mark.parametrize("option", [["--image-size", "32"], ["image_size=32"]])
def test_positions_are_resized_to_the_images_that_are_asked_for(imported, vit, option):
  weights, _ = imported(*option)
  found, before = weights.params["embed"]["positions"], vit.ours["params"]["embed"]["positions"]
  assert weights.config["image_shape"] == [32, 32, 3]
  assert found.shape == (1, 17, 8)
  np.testing.assert_array_equal(found[:, :1], before[:, :1])
  # Every linear interpolation that treats both sides alike keeps the mean of the grid.
  np.testing.assert_allclose(found[:, 1:].mean(axis=1), before[:, 1:].mean(axis=1), atol=1e-6)


def test_the_imported_model_is_the_layouts_model(imported, vit):
  weights, _ = imported()
  images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
  model = weights.model_spec().realize(num_classes=3)
  expected, _ = jax.jit(vit.model.apply)(vit.ours["params"], {}, jnp.asarray(images))
  found, _ = jax.jit(model.apply)(weights.params, weights.batch_stats, jnp.asarray(images))
  np.testing.assert_array_equal(found["logits"], expected["logits"])


def test_verify_without_the_library_is_one_line(vit_command, capsys, out, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert "--verify needs timm: pip install" in refused(capsys, *vit_command("--verify"))
  assert nothing_written(out)


def test_verify_of_a_layout_without_a_library_is_one_line(tmp_path, capsys, out, class_list):
  path = save(tmp_path / "x.safetensors", small_vit("jaxtl").theirs)
  arguments = ["import", path, "--as", "vit_ti16", "--layout", "jaxtl", "--out", out, "--classes", class_list]
  line = refused(capsys, *arguments, *VIT_KEYWORDS, "--verify")
  assert "no library builds the original of this layout" in line
  assert nothing_written(out)


def without(tensors, *keys):
  return {key: value for key, value in tensors.items() if key not in keys}


BAD_TENSORS = {
  "norm.bias is missing from the file, for params/norm/bias": lambda t: without(t, "norm.bias"),
  "extra (2,) of the file has no place in the model": lambda t: t | {"extra": np.zeros(2)},
  "holds values that are not finite": lambda t: t | {"norm.bias": np.full(8, np.nan)},
  "which does not give (1, 785, 8) of params/embed/positions": lambda t: t | {"pos_embed": t["pos_embed"][0]},
  "head.weight is (24,), which is not a classifier": lambda t: t | {"head.weight": t["head.weight"].ravel()},
}


@pytest.mark.parametrize(
  "strange", [np.full(8, 1j), np.full(8, "x"), np.zeros(8, "V1")], ids=lambda x: x.dtype.str
)
def test_arrays_of_no_real_numbers_are_refused(tmp_path, vit, vit_command, capsys, out, strange):
  """Complex numbers would lose a part, text is none, and numpy stores float8 as bytes of anything."""
  path = tmp_path / "x.npz"
  np.savez(path, **(vit.theirs | {"norm.bias": strange}))
  arguments = vit_command()
  arguments[1] = str(path)
  assert f"norm.bias holds {strange.dtype}; expected real numbers" in refused(capsys, *arguments)
  assert nothing_written(out)


@pytest.mark.parametrize("message", BAD_TENSORS)
def test_tensors_that_do_not_fit_are_refused(vit_command, vit, capsys, out, message):
  assert message in refused(capsys, *vit_command(tensors=BAD_TENSORS[message](vit.theirs)))
  assert nothing_written(out)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["depth=1"], "of the file has no place in the model"),
    (["width=16"], "which does not give"),
    (["image_size=20"], "image_size=20 is not a multiple of patch_size=8; write image_size=16"),
    (["--image-size", "20"], "image_size=20 is not a multiple of patch_size=8; write image_size=16"),
    (["--image-size", "32", "image_size=16"], "the images are 32 x 32 pixels"),
    (["witdh=16"], "has no 'witdh'; did you mean 'width'?"),
    (["width=wide"], "width is 'wide'; expected"),
    (["make=os.getcwd"], "is not a keyword of a model"),
    (["dtype={'make': 'os.getcwd'}"], "is not a keyword of a model"),
    (["activation=relu"], "activation must be"),
    (["--as", "nonsense"], "jaxtl.models has no 'nonsense'"),
    (["--as", "wide_resnet28_10"], "the layout 'timm' has no wide_resnet28_10; it has densenet121"),
    (["--classes", "no/such.json"], "no class list at no/such.json"),
    (["--crop-fraction", "2"], "crop_fraction is 2.0; expected above 0 and at most 1"),
    (["--std", "0,1,1"], "the stds above 0"),
  ],
)
def test_options_that_do_not_fit_are_refused(vit_command, capsys, out, options, message):
  assert message in refused(capsys, *vit_command(*options))
  assert nothing_written(out)


@pytest.mark.parametrize(
  ("option", "message"),
  [
    (["--allow", "["], "'[' is not a regular expression"),
    (["--mean", "1,2"], "'1,2' is not three numbers"),
    (["--crop-fraction", "half"], "'half' is neither a number nor 'none'"),
    (["--interpolation", "nearest"], "invalid choice: 'nearest'"),
    (["--image-size", "0"], "expected a positive integer, got '0'"),
    (["--layout", "keras"], "invalid choice: 'keras'"),
    (["nonsense"], "'nonsense' is not an argument of jaxtl import"),
  ],
)
def test_an_option_that_cannot_be_is_argparses_exit_code_2(vit_command, capsys, out, option, message):
  with pytest.raises(SystemExit) as stop:
    cli.main(vit_command(*option))
  assert stop.value.code == 2
  assert message in capsys.readouterr().err
  assert nothing_written(out)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ('["a", "b"]', "the file's classifier has 3 outputs; the class list has 2 names"),
    ('{"a": 1}', "is not a JSON list of names"),
    ('["a", "b", 3]', "is not a JSON list of names"),
    ("[", "is not valid JSON"),
    ("\udcff", "is not valid JSON"),
  ],
)
def test_a_class_list_that_does_not_fit_is_refused(vit_command, tmp_path, capsys, out, content, message):
  (tmp_path / "names.json").write_text(content, errors="surrogateescape")
  line = refused(capsys, *vit_command("--classes", tmp_path / "names.json", classes=False))
  assert message in line
  assert nothing_written(out)


def test_ten_outputs_without_names_are_refused(vit_command, capsys, out):
  tensors = small_vit("timm", num_classes=10).theirs
  line = refused(capsys, *vit_command(tensors=tensors, classes=False))
  assert "has 10 outputs, and nothing names them; give --classes FILE" in line
  assert nothing_written(out)


def test_names_for_no_classifier_are_refused(vit_command, vit, capsys, out):
  headless = without(vit.theirs, "head.weight", "head.bias")
  assert "has 0 outputs; the class list has 3 names" in refused(capsys, *vit_command(tensors=headless))
  assert nothing_written(out)


def test_a_big_vision_file_of_another_width_is_one_line(tmp_path, capsys, out):
  np.savez(tmp_path / "x.npz", pos_embedding=np.zeros((1, 4, 16), np.float32))
  arguments = ["import", tmp_path / "x.npz", "--as", "vit_ti16", "--layout", "big_vision", "--out", out]
  assert "is missing from the file" in refused(capsys, *arguments, *VIT_KEYWORDS)
  assert nothing_written(out)


def test_a_folder_that_exists_is_left_alone(vit_command, capsys, out):
  out.mkdir()
  assert "exists already; give --out a folder that does not" in refused(capsys, *vit_command())
  assert list(out.iterdir()) == []


def test_a_folder_below_a_file_is_one_line(vit_command, capsys, tmp_path):
  (tmp_path / "file").write_text("")
  assert "cannot be used" in refused(capsys, *vit_command("--out", tmp_path / "file" / "x"))


def test_a_write_that_fails_leaves_nothing(vit_command, out, monkeypatch, capsys):
  def full(*_, **__):
    raise OSError(28, "No space left on device", "classes.json")

  monkeypatch.setattr(checkpoint, "write_atomically", full)
  assert "classes.json cannot be used: No space left on device" in refused(capsys, *vit_command(), code=5)
  assert nothing_written(out)

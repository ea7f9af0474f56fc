"""What the JSON beside a weight says of it, and that only what is data is taken from there."""

import json
from pathlib import Path

import pytest

from jaxtl import cli
from jaxtl.data import Preprocessing
from jaxtl.errors import InputError
from jaxtl.pretrained import LAYOUTS
from jaxtl.pretrained.facts import Facts, read_facts
from jaxtl.train import checkpoint
from tests.pretrained.made_weights import CLASSES, VIT_KEYWORDS, as_weights, refused, save, small_vit

HALF = [0.5, 0.5, 0.5]
LABELS = {"2": "cat", "0": "ant", "1": "bee"}


def facts(folder, layout, model, **files):
  for name, content in files.items():
    (folder / f"{name}.json").write_text(json.dumps(content))
  return read_facts(folder, layout, model)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_comes_alone_says_nothing(tmp_path, layout):
  assert read_facts(tmp_path, layout, "vit_ti16") == Facts()


def test_hugging_face_says_numerics_classes_and_preprocessing(tmp_path):
  config = dict(model_type="vit", hidden_act="gelu_new", layer_norm_eps=1e-6, id2label=LABELS)
  processor = dict(size=dict(height=16, width=16), resample=3, image_mean=HALF, image_std=[0.1, 0.2, 0.3])
  found = facts(tmp_path, "hugging_face", "vit_ti16", config=config, preprocessor_config=processor)
  assert found.keywords == dict(norm_epsilon=1e-6, activation="gelu_tanh")
  assert found.classes == CLASSES
  assert found.preprocessing == Preprocessing(16, None, "bicubic", (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))


def test_deit_has_two_tokens_and_a_crop(tmp_path):
  config = dict(model_type="deit", id2label={"0": "LABEL_0", "1": "LABEL_1"})
  crop = dict(size=dict(shortest_edge=256), crop_size=dict(height=224, width=224), do_center_crop=True)
  found = facts(tmp_path, "hugging_face", "vit_ti16", config=config, preprocessor_config=crop)
  assert found.keywords == dict(pooling="distilled")
  assert found.classes is None  # names that say nothing
  assert found.preprocessing.resize_to == 256
  assert found.preprocessing.size == 224
  assert found.preprocessing.interpolation == "bilinear"


def test_each_tower_of_clip_has_its_own_part_of_the_config(tmp_path):
  config = dict(
    vision_config=dict(hidden_act="quick_gelu", layer_norm_eps=1e-5),
    text_config=dict(hidden_act="gelu", layer_norm_eps=1e-6),
  )
  image = facts(tmp_path, "hugging_face", "clip_vit_b32", config=config)
  text = facts(tmp_path, "hugging_face", "clip_text_b", config=config)
  assert image.keywords == dict(norm_epsilon=1e-5, activation="quick_gelu")
  assert text.keywords == dict(norm_epsilon=1e-6, activation="gelu")


def test_timm_says_numerics_classes_and_preprocessing(tmp_path):
  cfg = dict(input_size=[3, 240, 240], crop_pct=0.9, interpolation="bicubic", mean=HALF, std=HALF)
  config = dict(architecture="tf_efficientnet_b1", pretrained_cfg=cfg, label_names=list(CLASSES))
  found = facts(tmp_path, "timm", "efficientnet_b1", config=config)
  assert found.keywords == {}
  assert found.classes == CLASSES
  assert found.preprocessing == Preprocessing(240, 0.9, "bicubic", (0.5,) * 3, (0.5,) * 3)
  squashed = config | dict(pretrained_cfg=cfg | dict(crop_mode="squash"), architecture="efficientnet_b1")
  found = facts(tmp_path, "timm", "efficientnet_b1", config=squashed)
  assert found.keywords == dict(padding="symmetric", bn_epsilon=1e-5)
  assert found.preprocessing.crop_fraction is None


def test_numbers_of_heads_are_taken_since_no_shape_tells_them(tmp_path):
  config = dict(model_type="vit", num_attention_heads=4)
  assert facts(tmp_path, "hugging_face", "vit_ti16", config=config).keywords == dict(num_heads=4)
  arguments = dict(img_size=64, patch_size=8, embed_dim=48, depth=2, num_heads=3, class_token=False)
  config = dict(architecture="vit_small_patch16_224", model_args=arguments)
  expected = dict(image_size=64, patch_size=8, width=48, depth=2, num_heads=3, pooling="mean")
  assert facts(tmp_path, "timm", "vit_s16", config=config).keywords == expected
  config = dict(architecture="deit_small_distilled_patch16_224")
  assert facts(tmp_path, "timm", "vit_s16", config=config).keywords == dict(pooling="distilled")


def test_timms_descriptions_come_in_the_order_of_its_names(tmp_path):
  config = dict(label_names=["n2", "n1"], label_descriptions=dict(n1="one", n2="two"))
  assert facts(tmp_path, "timm", "resnet50", config=config).classes == ("two", "one")


@pytest.mark.parametrize(("quick", "activation"), [(True, "quick_gelu"), (False, "gelu")])
def test_open_clip_says_its_activation_and_preprocessing(tmp_path, quick, activation):
  config = dict(
    model_cfg=dict(quick_gelu=quick, vision_cfg=dict(image_size=336)),
    preprocess_cfg=dict(mean=HALF, std=HALF),
  )
  found = facts(tmp_path, "open_clip", "clip_vit_l14", open_clip_config=config)
  assert found.keywords == dict(activation=activation)
  assert found.preprocessing == Preprocessing(336, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
  ("layout", "name", "content", "message"),
  [
    ("timm", "config", "{", "is no JSON object"),
    ("timm", "config", "[1]", "is no JSON object"),
    ("timm", "config", '{"pretrained_cfg": 3}', "is not as timm writes it"),
    ("jaxtl", "config", '{"model": "resnet50"}', "is not as jaxtl writes it"),
    ("jaxtl", "config", '{"model": {}}', "is not as jaxtl writes it"),
    ("hugging_face", "config", '{"id2label": ["a"]}', "is not as hugging_face writes it"),
    ("hugging_face", "config", '{"id2label": {"x": "a"}}', "is not as hugging_face writes it"),
    ("hugging_face", "config", '{"hidden_act": "relu"}', "activation 'relu' is not known here"),
    ("hugging_face", "preprocessor_config", '{"size": 224, "resample": 0}', "interpolation 0 is not known"),
    ("hugging_face", "preprocessor_config", '{"size": 224, "rescale_factor": 1}', "only 1/255 is known"),
    ("open_clip", "open_clip_config", '{"preprocess_cfg": {"mean": 1}}', "is not as open_clip writes it"),
  ],
)
def test_json_of_another_kind_is_refused(tmp_path, layout, name, content, message):
  (tmp_path / f"{name}.json").write_text(content)
  with pytest.raises(InputError) as caught:
    read_facts(tmp_path, layout, "vit_ti16")
  assert message in str(caught.value)


@pytest.fixture
def folder(tmp_path):
  """As Hugging Face's: weights and two files that describe them."""
  folder = tmp_path / "hub"
  folder.mkdir()
  save(folder / "model.safetensors", small_vit("hugging_face").theirs)
  config = dict(model_type="vit", hidden_act="quick_gelu", layer_norm_eps=1e-3, id2label=LABELS)
  (folder / "config.json").write_text(json.dumps(config))
  processor = dict(size=dict(height=16, width=16), resample=2, image_mean=[0.1] * 3, image_std=[0.2] * 3)
  (folder / "preprocessor_config.json").write_text(json.dumps(processor))
  return folder


def import_folder(folder, out, *options, layout="hugging_face"):
  arguments = ["import", folder, "--as", "vit_ti16", "--layout", layout, "--out", out, *options]
  return [str(a) for a in arguments]


def test_a_folder_of_hugging_face_needs_no_options_for_what_it_says(folder, out):
  assert cli.main(import_folder(folder, out, *VIT_KEYWORDS)) == 0
  config = checkpoint.load(out).config
  assert config["model"]["activation"] == "quick_gelu"
  assert config["model"]["norm_epsilon"] == 1e-3
  assert config["classes"] == list(CLASSES)
  assert config["transforms"] == [
    dict(fn=".data.resize", size=[16, 16], interpolation="bilinear"),
    dict(fn=".data.normalize", mean=[0.1] * 3, std=[0.2] * 3),
  ]
  assert config["source"]["file"] == "model.safetensors"


def test_options_go_over_the_files_beside_the_weight(folder, out, tmp_path):
  (tmp_path / "names.txt").write_text("x\ny\nz\n")
  options = ["norm_epsilon=1e-4", "--classes", tmp_path / "names.txt", "--mean", "0.3,0.3,0.3"]
  assert cli.main(import_folder(folder, out, *VIT_KEYWORDS, *options)) == 0
  config = checkpoint.load(out).config
  assert config["model"]["norm_epsilon"] == 1e-4
  assert config["model"]["activation"] == "quick_gelu"
  assert config["classes"] == ["x", "y", "z"]
  assert config["transforms"][1] == dict(fn=".data.normalize", mean=[0.3] * 3, std=[0.2] * 3)


@pytest.fixture
def own(tmp_path):
  """An export of ours."""
  from jaxtl.pretrained.exporting import export

  keywords = dict(image_size=16, patch_size=8, width=8, depth=2, num_heads=2)
  export(as_weights("vit_ti16", **keywords), tmp_path / "own", format="safetensors")
  return tmp_path / "own"


def test_an_export_of_ours_says_all_that_it_needs(own, out):
  assert cli.main(import_folder(own, out, layout="jaxtl")) == 0
  config = checkpoint.load(out).config
  told = json.loads((own / "config.json").read_text())
  assert config["model"] == told["model"]
  assert config["classes"] == told["classes"]
  assert config["image_shape"] == told["image_shape"]


def test_another_image_size_goes_over_that_of_an_export(own, out):
  assert cli.main(import_folder(own, out, "--image-size", "32", layout="jaxtl")) == 0
  weights = checkpoint.load(out)
  assert weights.config["model"]["image_size"] == 32
  assert weights.params["embed"]["positions"].shape == (1, 17, 8)


@pytest.mark.parametrize(
  "hostile",
  [
    {"width": {"make": "subprocess.run", "args": ["touch", "started"]}},
    {"width": [{"make": "subprocess.run", "args": ["touch", "started"]}]},
    {"dtype": {"fn": "os.system"}},
    {"fn": "os.system"},
  ],
)
def test_a_config_beside_the_weight_starts_no_program(own, out, capsys, hostile, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = json.loads((own / "config.json").read_text())
  (own / "config.json").write_text(json.dumps(config | {"model": config["model"] | hostile}))
  line = refused(capsys, *import_folder(own, out, layout="jaxtl"))
  assert "is no keyword of a model, which are numbers and names" in line
  assert not Path("started").exists()
  assert list(out.parent.iterdir()) == []

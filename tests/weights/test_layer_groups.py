"""What a layer is: the default for every kind of backbone, the user's own, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxtl import models, tree, weights
from jaxtl.errors import ConfigError
from jaxtl.types import Model


def groups_of(model, groups=None, size=32):
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  params, _ = jax.eval_shape(model.init, jax.random.key(0), images)
  return params, weights.layer_groups(model, params, groups=groups)


def named(names, count):
  return [f"{names}{number}" for number in range(1, count + 1)]


@pytest.mark.parametrize(
  ("model", "expected"),
  [
    (models.vit_ti16(num_classes=3, image_size=32), ["embed", *named("block", 12), "norm", "head"]),
    (
      models.resnet18(num_classes=3),
      ["stem", *(f"stage{s}_block{b}" for s in range(1, 5) for b in (1, 2)), "head"],
    ),
    (
      models.densenet121(num_classes=3),
      [
        "stem",
        *(name for s in (1, 2, 3) for name in (f"stage{s}", f"transition{s}")),
        "stage4",
        "norm",
        "head",
      ],
    ),
  ],
  ids=["vit", "resnet", "densenet"],
)
def test_layers_are_blocks_and_the_dense_ones_of_a_densenet_stages(model, expected):
  params, groups = groups_of(model)
  assert [group.name for group in groups] == expected
  assert sum(group.num_parameters for group in groups) == tree.size(params)
  assert [block for group in groups for block in group.blocks] == list(model.blocks)


def test_a_densenet_can_be_taken_apart_into_its_dense_layers():
  model = models.densenet121(num_classes=3)
  _, groups = groups_of(model, (".+",))
  assert sum("layer" in group.name for group in groups) == 6 + 12 + 24 + 16
  assert [group.name for group in groups] == list(model.blocks)


@pytest.mark.parametrize("name", ["clip_vit_b32", "efficientnet_b0", "mobilenet_v1", "mobilenet_v2"])
def test_the_blocks_of_every_other_backbone_are_its_layers(name):
  model = getattr(models, name)(num_classes=3)
  params, groups = groups_of(model, size=224)
  assert [group.name for group in groups] == [block for block in model.blocks if block in params]


def test_a_users_groups_take_whole_names_and_are_called_by_their_parenthesis():
  model = models.vit_ti16(num_classes=3, image_size=32)
  _, groups = groups_of(model, ("block1", "head"))
  assert [group.blocks for group in groups] == [("block1",), ("head",)]  # not block10, 11 and 12
  _, groups = groups_of(models.resnet18(num_classes=3), (r"(stage\d).+",))
  assert [(group.name, len(group.blocks)) for group in groups] == [(f"stage{s}", 2) for s in range(1, 5)]


def test_the_first_regex_counts_and_layers_come_in_the_order_of_the_network():
  model = models.resnet18(num_classes=3)
  _, groups = groups_of(model, ("head", "(rest)?.+"))
  assert [group.name for group in groups] == list(model.blocks)


@pytest.mark.parametrize(
  ("groups", "message"),
  [
    (("haed",), r"'haed' matches no block of resnet18; did you mean 'head'\? The blocks are stem, stage1_b"),
    (("zzzzz",), r"'zzzzz' matches no block of resnet18\. The blocks are stem, .+, head$"),
    (
      ("head", "stage1_blok1"),
      r"'stage1_blok1' matches no block of resnet18; did you mean 'stage1_block1'\?",
    ),
    ((".+", "head"), "'head' has no block left"),
    ((), "at least one regex"),
    ("head", "a list of at least one regex"),
    (("head[",), "is not a regex"),
  ],
)
def test_names_that_find_nothing_are_refused_with_the_nearest(groups, message):
  with pytest.raises(ConfigError, match=message) as error:
    groups_of(models.resnet18(num_classes=3), groups)
  assert "\n" not in str(error.value)


def test_a_model_without_blocks_or_parameters_is_refused():
  empty = Model("nothing", init=lambda *_: None, apply=lambda *_: None, blocks=())
  with pytest.raises(ConfigError, match="nothing has no blocks"):
    weights.layer_groups(empty, {})
  pooling = dataclasses.replace(empty, blocks=("pool", "head"))
  with pytest.raises(ConfigError, match="no block of nothing has parameters"):
    weights.layer_groups(pooling, {})
  params = {"head": {"bias": jnp.zeros(3)}}
  assert [group.name for group in weights.layer_groups(pooling, params)] == ["head"]
  with pytest.raises(ConfigError, match="'pool' of nothing has no parameters"):
    weights.layer_groups(pooling, params, groups=("pool", "head"))

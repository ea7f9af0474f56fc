"""Every mistake in a config is one line that names the place, the key and the nearest right one."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Literal

import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl import config, losses
from jaxtl.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Inner:
  size: int
  share: float = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
  loss: config.Spec
  inner: Inner
  many: Mapping[str, Inner] = dataclasses.field(default_factory=dict)
  rates: tuple[float, ...] = ()
  pair: tuple[int, str] = (1, "a")
  name: str | None = None
  mode: Literal["a", "b"] = "a"
  flag: bool = False


HINGE = dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0)
GOOD = dict(loss=HINGE, inner=dict(size=3))


def test_fn_fixes_keywords_and_make_makes():
  loss = config.spec(HINGE).realize()
  assert isinstance(loss, partial)
  assert loss.func is losses.multiclass_smoothed_hinge
  assert loss.keywords == {"margin": 7.0}
  made = config.spec(dict(make="optax.sgd", learning_rate=0.1)).realize()
  assert isinstance(made, optax.GradientTransformation)


def test_specs_nest_and_context_fills_what_is_left_open():
  value = dict(make=".optim.sgd", peak_rate=0.1, schedule=dict(make=".optim.cosine", warmup_epochs=1.0))
  spec = config.spec(value)
  spec.realize(total_steps=100, steps_per_epoch=10, num_classes=5)
  with pytest.raises(ConfigError, match=r".optim.cosine needs 'total_steps', which is not known here"):
    spec.realize()


def test_the_config_wins_over_the_context():
  schedule = config.spec(dict(make=".optim.cosine", total_steps=1)).realize(total_steps=1000)
  assert float(schedule(1)) == 0.0


@pytest.mark.parametrize(
  ("value", "message"),
  [
    (dict(fn=".losses.multiclass_smoothed_hinge", margn=7.0), "has no 'margn'; did you mean 'margin'?"),
    (dict(fn=".losses.multiclass_smoothed_hinge"), "needs 'margin'"),
    (dict(make="optax.adamw"), "optax.adamw needs 'learning_rate'"),
    (
      dict(fn=".losses.softmax_crossentropy"),
      "has no 'softmax_crossentropy'; did you mean 'softmax_cross_entropy'?",
    ),
    (dict(fn=".losses.softmax_cross_entropy", labels=3), "has no 'labels'"),
    (dict(make="nowhere.thing"), "there is no module 'nowhere'"),
    (dict(make=".models.nothing.here"), "there is no module 'jaxtl.models.nothing'"),
    (dict(make="adamw"), "expected an import path"),
    (dict(make=3), "expected an import path"),
    (dict(loss=1), "needs one of 'make' and 'fn'"),
    (dict(make="optax.sgd", fn="optax.sgd"), "needs one of 'make' and 'fn'"),
    (dict(make="optax.sgd", learning_rate=dict(make=".optim.cosin")), "learning_rate names '.optim.cosin'"),
    (dict(fn=".losses.multiclass_smoothed_hinge", margin="7"), "margin is '7'; expected a number"),
    (dict(fn=".losses.multiclass_smoothed_hinge", margin=True), "margin is True; expected a number"),
    (dict(make=".optim.accumulate", steps=2.5), "steps is 2.5; expected an integer"),
    (7, "config is 7; expected a component"),
    (
      dict(fn=".optim.sam", rho=0.1),
      ".optim.sam is made from keywords and takes no data; write make='.optim.sam'",
    ),
    (dict(make=".optim.sgd", peak_rate=0.1, schedule="cosine"), "schedule is 'cosine'; expected a component"),
    (dict(make=".optim.sam", rho=0.1, inner="plain"), "inner is 'plain'; expected a component"),
    (
      dict(make=".tasks.classification", loss=".losses.poly1"),
      "loss is '.losses.poly1'; expected a component",
    ),
  ],
)
def test_a_bad_spec_is_one_line(value, message):
  with pytest.raises(ConfigError) as caught:
    config.spec(value)
  assert message in str(caught.value)
  assert "\n" not in str(caught.value)


def test_parse_makes_the_dataclass():
  parsed = config.parse(
    GOOD
    | dict(many=dict(a=dict(size=1, share=1)), rates=[1, 2.5], pair=[2, "b"], name="x", mode="b", flag=True),
    Outer,
  )
  assert parsed.inner == Inner(3)
  assert parsed.many == {"a": Inner(1, 1.0)}
  assert parsed.rates == (1.0, 2.5)
  assert (parsed.pair, parsed.name, parsed.mode, parsed.flag) == ((2, "b"), "x", "b", True)
  assert parsed.loss == config.spec(HINGE)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(iner=1), "config has no 'iner'; did you mean 'inner'?"),
    (dict(inner=dict(sise=3)), "config.inner has no 'sise'; did you mean 'size'?"),
    (dict(inner=dict()), "config.inner needs 'size'"),
    (dict(inner=3), "config.inner is 3; expected a mapping with size, share"),
    (dict(inner=dict(size=3.0)), "config.inner.size is 3.0; expected an integer"),
    (dict(many=dict(a=dict(size="x"))), "config.many.a.size is 'x'; expected an integer"),
    (dict(many=3), "config.many is 3; expected a mapping"),
    (dict(rates=0.1), "config.rates is 0.1; expected a list"),
    (dict(rates=[0.1, "x"]), "config.rates.1 is 'x'; expected a number"),
    (dict(pair=[1]), "config.pair is [1]; expected 2 values"),
    (dict(name=3), "config.name is 3; expected text"),
    (dict(mode="c"), "config.mode is 'c'; expected one of 'a', 'b'"),
    (dict(flag=1), "config.flag is 1; expected True or False"),
    (dict(loss="softmax"), "config.loss is 'softmax'; expected a component"),
  ],
)
def test_a_bad_value_is_one_line(change, message):
  with pytest.raises(ConfigError) as caught:
    config.parse(GOOD | change, Outer)
  assert message in str(caught.value)
  assert "\n" not in str(caught.value)


def test_a_checkpoints_config_is_not_imported_from_outside():
  trusted = config.TRUSTED
  assert config.spec(HINGE, trusted=trusted) == config.spec(HINGE)
  hostile = [
    dict(make="os.system"),
    dict(make="optax.sgd", learning_rate=dict(fn="subprocess.run")),
    dict(make=".studies.study.load_config", path="evil.py"),  # runs a program
    dict(make=".train.writer.write_atomically", path="x", text="y"),
    dict(make="jaxtl.config.find", path="os.system"),
    dict(make=".data.sources.tf", x=1),
    dict(make="optax._src.base.identity"),
  ]
  for value in hostile:
    with pytest.raises(ConfigError, match="pass --trust"):
      config.spec(value, trusted=trusted)


def test_arms_merge_and_components_replace():
  base = dict(task=dict(make="t", loss=dict(fn="a", label_smoothing=0.1)), epochs=1.0, list=[1, 2])
  arm = dict(task=dict(loss=dict(fn="b", margin=7.0)), list=[3])
  assert config.merge(base, arm) == dict(
    task=dict(make="t", loss=dict(fn="b", margin=7.0)), epochs=1.0, list=[3]
  )
  assert config.merge(base, {}) == base
  assert config.merge(base, dict(task=dict(loss=dict(label_smoothing=0.2))))["task"]["loss"]["fn"] == "a"


def test_overrides_reach_any_depth():
  base = dict(base=dict(data=dict(transforms=[dict(size=32)], n=1)), seeds=[0])
  found = config.override(
    base,
    [
      "base.data.transforms.0.size=48",
      "base.data.n=2.5",
      "seeds=(1, 2)",
      "base.new.key=text here",
      "base.off=None",
    ],
  )
  assert found == dict(
    base=dict(data=dict(transforms=[dict(size=48)], n=2.5), new=dict(key="text here"), off=None), seeds=[1, 2]
  )
  assert base["seeds"] == [0]


@pytest.mark.parametrize(
  ("assignment", "message"),
  [
    ("base.epochs", "has no '='"),
    ("seeds.7=1", "'7' is no index of a list of 1"),
    ("a.b=1", "has no keys"),
    ("arms.smoothed-hinge.epochs=1", "no arm 'smoothed-hinge'; did you mean 'smoothed_hinge'"),
  ],
)
def test_a_bad_override_is_one_line(assignment, message):
  with pytest.raises(ConfigError, match=message):
    config.override(dict(seeds=[0], a=3, arms=dict(smoothed_hinge={})), [assignment])


def test_differences_name_each_place():
  old = dict(a=1, b=dict(c=2, d=[1]), e=1)
  assert config.differences(old, old) == []
  new = dict(a=1, b=dict(c=3, d=[1, 2]), f=1)
  assert config.differences(old, new) == [
    "b.c: 2 -> 3",
    "b.d: [1] -> [1, 2]",
    "e: 1 -> '(absent)'",
    "f: '(absent)' -> 1",
  ]


def test_differences_look_into_lists_of_components():
  resize, flip = dict(fn=".data.resize", size=[8, 8]), dict(fn=".data.flip_left_right")
  old = dict(transforms=[resize, flip])
  assert config.differences(old, dict(transforms=[resize | dict(size=[4, 4]), flip])) == [
    "transforms.0.size: [8, 8] -> [4, 4]"
  ]
  assert len(config.differences(old, dict(transforms=[resize]))) == 1


json_values = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
  lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
  max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
  st.dictionaries(st.sampled_from(["loss", "inner", "rates", "mode", "iner", "make", "fn"]), json_values)
)
def test_whatever_is_given_parses_or_is_refused_in_one_line(value):
  try:
    config.parse(value, Outer)
  except ConfigError as error:
    assert "\n" not in str(error).replace(repr("\n"), "")  # noqa: PT017


def test_plain_gives_back_what_was_written():
  value = dict(make=".optim.sgd", peak_rate=0.1, schedule=dict(make=".optim.cosine", warmup_epochs=1.0))
  assert config.plain(config.spec(value)) == value
  with pytest.raises(ConfigError, match="a config holds numbers"):
    config.plain(dict(a=object()))

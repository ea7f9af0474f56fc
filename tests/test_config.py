"""Every mistake in a config is one line that names the place, the key and the nearest right one."""

import contextlib
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
    (dict(fn=".studies.heads.own"), "'.studies.heads.own', which is '.studies.patching.own' now"),
    (dict(make=".train.zero_shot"), "'.train.zero_shot', which is '.zero_shot.zero_shot' now"),
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
    ("seeds.7=1", "'7' is not an index into a list of 1"),
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


def test_another_component_takes_no_keywords_of_the_old_one_and_the_same_one_merges():
  base = dict(model=dict(make="a", width=4, depth=16), lr=1)
  assert config.merge(base, dict(model=dict(make="b"))) == dict(model=dict(make="b"), lr=1)
  assert config.merge(base, dict(model=dict(fn="a"))) == dict(model=dict(fn="a"), lr=1)
  same = dict(model=dict(make="a", width=4, depth=10), lr=1)
  assert config.merge(base, dict(model=dict(make="a", depth=10))) == same
  assert config.merge(base, dict(model=dict(depth=10))) == same


@pytest.mark.parametrize(
  ("overrides", "expected"),
  [
    (["base.model.make=b"], dict(make="b")),
    (["base.model.fn=a"], dict(fn="a")),
    (["base.model.make=a"], dict(make="a", width=4, inner=dict(fn="i", x=1))),
    (["base.model.make=b", "base.model.width=5"], dict(make="b", width=5)),
    (["base.model.width=5", "base.model.make=b"], dict(make="b", width=5)),
    (["base.model.inner.x=2", "base.model.make=b"], dict(make="b", inner=dict(fn="i", x=2))),
    (["base.model.inner.fn=j"], dict(make="a", width=4, inner=dict(fn="j"))),
  ],
)
def test_an_override_with_another_component_takes_no_keywords_of_the_old_one(overrides, expected):
  base = dict(base=dict(model=dict(make="a", width=4, inner=dict(fn="i", x=1))))
  assert config.override(base, overrides)["base"]["model"] == expected


@pytest.mark.parametrize(
  ("name", "problem"),
  [
    ("", "is empty"),
    ("..", "begins with a dot"),
    (".hidden", "begins with a dot"),
    ("/abs", "has a slash"),
    ("a/b", "has a slash"),
    ("a\\b", "has a slash"),
    ("a\0b", "cannot be printed"),
    ("a\nb", "cannot be printed"),
    ("\x1b[31mred", "cannot be printed"),
    ("\u202eb", "cannot be printed"),
    ("\ud800", "is not valid text"),
    (" a", "begins or ends with a space"),
    ("\u00e9" * 51, "has 102 bytes"),
    ("Report", "files of its own"),
    ("log.txt", "files of its own"),
  ],
)
def test_a_name_that_leads_out_of_its_folder_is_refused_in_one_line(name, problem):
  with pytest.raises(ConfigError, match=f"arms has the name .*{problem}") as caught:
    config.check_names([name], at="arms", reserved=("report", "log"))
  assert len(str(caught.value).splitlines()) == 1


def test_ordinary_names_are_used_as_they_are():
  names = ["sam_0.1", "a b", "\u00e9" * 50, "a,b", "reports", "log2", "-0.5"]
  config.check_names(names, at="x", reserved=("report", "log"))


@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_an_integer_that_fits_nowhere_is_refused(digits):
  number = 10**digits
  for value in (number, -number, [number], {"a": (1, number)}):
    with pytest.raises(ConfigError, match=r"integer of \d+ bits") as caught:
      config.plain(value)
    assert len(str(caught.value)) < 200
  with pytest.raises(ConfigError, match=r"config.inner.size has an integer of \d+ bits"):
    config.parse(GOOD | dict(inner=dict(size=number)), Outer)
  with pytest.raises(ConfigError, match=r"rates.0 has an integer"):
    config.parse(GOOD | dict(rates=[number]), Outer)
  assert config.plain([2**63 - 1, -(2**63) + 1, 1e30]) == [2**63 - 1, -(2**63) + 1, 1e30]


@pytest.mark.parametrize(
  "override", ["seeds.0={}", "base.x={}", "base.x=[{}]", "base.x=-{}", "base.list.{}=1", "base.{}=1"]
)
def test_overrides_with_400_digits_are_refused_or_used(override):
  base = dict(seeds=[0], base=dict(x=1, list=[1]))
  assignment = override.format("9" * 400)
  if override == "base.{}=1":
    assert config.override(base, [assignment])["base"]["9" * 400] == 1
    return
  with pytest.raises(ConfigError, match=r"^override '"):
    config.override(base, [assignment])


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ("{[]: 1}", "{[]: 1}"),
    ("[" * 500, "[" * 500),
    ("1if", "1if"),
    ("-" * 5000 + "1", "-" * 5000 + "1"),
    ("1_0", 10),
  ],
)
def test_a_value_that_is_no_literal_is_text(text, value, recwarn):
  assert config.override({}, [f"x={text}"]) == {"x": value}
  assert not recwarn


def test_a_list_has_no_place_that_is_no_number():
  for key in ("\u00b2", "\u0663", "-1", "1.5", "9" * 5000):
    with pytest.raises(ConfigError, match="override"):
      config.override({"a": [1, 2, 3, 4]}, [f"a.{key}=1"])


def test_a_config_that_contains_itself_is_refused():
  endless: dict = {}
  endless["a"] = [endless]
  with pytest.raises(ConfigError, match="nested at most 64 deep"):
    config.plain(endless)
  with pytest.raises(ConfigError, match="at most 64 keys"):
    config.override({}, [".".join("a" * 100) + "=1"])


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("raise SystemExit(0)", "cannot be imported: SystemExit: 0"),
    ("import nowhere_at_all", "cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ("1 +", "cannot be imported: SyntaxError"),
    ("raise ValueError('a\\nb')", "cannot be imported: ValueError: a"),
  ],
)
def test_a_module_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, text, said):
  monkeypatch.syspath_prepend(tmp_path)
  name = f"broken_{abs(hash(text))}"
  (tmp_path / f"{name}.py").write_text(text)
  with pytest.raises(ConfigError, match=said):
    config.spec(dict(fn=f"{name}.loss"))


@pytest.mark.parametrize(
  "path", ["builtins.print", "builtins.dict", "builtins.iter", "os.\0", "a\0.b", "..", "."]
)
def test_any_path_is_used_or_refused(path):
  for kind in config.KINDS:
    with contextlib.suppress(ConfigError):
      config.spec({kind: path})

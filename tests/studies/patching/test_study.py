"""Patching a small network, whole: heads, fine-tuning, the path, the coefficient, and the report."""

import shutil

import jax
import numpy as np
import pytest

import jaxtl.data
from jaxtl import tree, weights
from jaxtl.checkpoints import checkpoint
from jaxtl.config import parse
from jaxtl.errors import Restart
from jaxtl.host import sealed_json
from jaxtl.report import write as report
from jaxtl.runner import run as study
from jaxtl.studies.patching import frozen_heads, pairs
from jaxtl.studies.patching.fine_tuning import FineTunedTasks
from jaxtl.studies.patching.settings import Patching
from tests.measure.test_passes import Stop
from tests.studies.flatness.test_study import Counted

pytestmark = pytest.mark.slow

PLAIN = [dict(fn=".data.normalize")]


def data(seed, names="abcdefgh", **keywords):
  source = dict(make="tests.small_training.squares", seed=seed, names=names, **keywords)
  return dict(source=source, transforms=PLAIN, batch_size=32)


def halves(*, seed, names="pq"):
  """Noise whose brighter half tells the class: a task that has nothing to do with colours."""
  rng = np.random.default_rng(seed)
  labels = np.arange(96) % 2
  images = rng.integers(0, 160, (96, 8, 8, 3))
  for image, label in zip(images, labels, strict=True):
    image[4 * label : 4 * label + 4] += 60
  return jaxtl.data.from_arrays(
    images=images.astype(np.uint8), labels=labels, classes=list(names), name="halves"
  )


def half(seed):
  return data(seed) | dict(source=dict(make="tests.studies.patching.test_study.halves", seed=seed))


def task(seed, **keywords):
  return dict(
    train=data(seed, **keywords) | dict(batch_size=16),
    validation=data(seed + 1, **keywords),
    test=data(seed + 2, **keywords),
  )


@pytest.fixture
def checkpointed(trained_once, tmp_path):
  shutil.copytree(trained_once[0], tmp_path / "start")
  return str(tmp_path / "start")


@pytest.fixture
def base(checkpointed):
  return base_of(checkpointed)


def base_of(start):
  fine_tune = dict(
    task=dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy")),
    optimizer=dict(make=".optim.adam", peak_rate=0.02),
    epochs=2.0,
  )
  return dict(
    start=start,
    supported=dict(old=task(1) | dict(head=dict(fn=".studies.patching.own"))),
    patching=dict(
      two=dict(train=half(10) | dict(batch_size=16), validation=half(11), test=half(12)),
      three=task(20, names="uvwxyz"),
    ),
    fine_tune=fine_tune,
  )


def run(base, runtime, workdir, **changes):
  config = dict(study=".studies.patching.rows", base=base | changes, arms=dict(a=dict()), seeds=[0])
  return study.run_study(config, workdir=workdir, runtime=runtime())


def bench_of(base, runtime, tmp_path, **changes):
  plan, here = parse(base | changes, Patching), runtime()
  return FineTunedTasks.of(plan, here, side=8, seed=0, workdir=tmp_path / "bench" / "0")


def test_every_pair_has_a_row_with_all_its_coefficients(base, runtime, tmp_path):
  rows = run(base, runtime, tmp_path / "run")
  assert [(row["supported"], row["patching"]) for row in rows] == [("old", "two"), ("old", "three")]
  for row in rows:
    assert row["zero_shot/alpha"] == 0
    assert row["fine_tuned/alpha"] == 1
    assert row["zero_shot/objective"] == 2  # both losses divided by themselves
    assert row["num_evaluations"] <= 16
    assert row["grid_0.05/num_evaluations"] == 21
    assert row["grid_0.1/num_evaluations"] == 11
    assert row["warm_started/objective"] <= row["grid_0.05/objective"] <= row["grid_0.1/objective"]
    assert row["optimised/objective"] <= min(row["zero_shot/objective"], row["fine_tuned/objective"])
    assert row["gain"] == pytest.approx(1 - row["optimised/objective"] / row["grid_0.05/objective"])
    assert row["backward_transfer"] >= -row["slope"] / row["distance"] - 1e-9
    assert row["curve"]["alpha"] == sorted(row["curve"]["alpha"])
    assert sum(row["curve"]["searched"]) == row["num_evaluations"]


def test_the_rules_choose_from_the_grid_of_tenths_by_validation_accuracy(base, runtime, tmp_path):
  for row in run(base, runtime, tmp_path / "run"):
    curve = row["curve"]
    grid = [i for i, alpha in enumerate(curve["alpha"]) if round(10 * alpha, 9) == round(10 * alpha)]
    assert len(grid) == 11
    old, new = (np.array(curve[f"{role}_top1"])[grid] for role in ("supported", "patching"))
    alphas = np.array(curve["alpha"])[grid]
    assert row["mean_accuracy/alpha"] == alphas[np.argmax(old + new)]
    assert row["constrained/alpha"] == alphas[np.argmax(np.where(old >= old[0] - 0.01, new, -1))]
    for rule in ("mean_accuracy", "constrained"):
      at = np.flatnonzero(alphas == row[f"{rule}/alpha"])[0]
      assert row[f"{rule}/validation_supported_top1"] == old[at]
      assert row[f"{rule}/validation_patching_top1"] == new[at]


class Known:
  """Scores along a path that never was."""

  def __init__(self, **accuracies):
    self.accuracies = accuracies

  def scores(self, alpha, names):
    return {name: dict(top1=self.accuracies[name][round(10 * alpha)]) for name in names}


@pytest.mark.parametrize(
  ("old", "mean_accuracy", "constrained"),
  [
    ([0.9, 0.9, 0.895, 0.85, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 0.3, 0.2),
    ([0.9, 0.88, 0.88, 0.88, 0.88, 0.88, 0.88, 0.88, 0.5, 0.4, 0.0], 0.7, 0.0),
    ([0.1] * 11, 0.9, 0.9),  # the first of the best
  ],
)
def test_a_point_of_accuracy_is_what_the_constrained_rule_gives_up(old, mean_accuracy, constrained):
  new = [0.1, 0.2, 0.3, 0.4, 0.44, 0.46, 0.48, 0.5, 0.6, 0.7, 0.7]
  path, tenths = Known(old=old, new=new), [number / 10 for number in range(11)]
  grid = weights.grid_search(lambda alpha: alpha, step=0.1)
  assert sorted(grid.evaluations) == pytest.approx(tenths)
  found = pairs._by_accuracy(path, "old", "new", grid)
  assert found == pytest.approx(dict(mean_accuracy=mean_accuracy, constrained=constrained))


@pytest.mark.parametrize(
  "how",
  [
    dict(optimizer=dict(make=".optim.adam", peak_rate=0.02, freeze="^(stem|stage1)")),
    dict(gradient=dict(make=".optim.pol", update=["stage3_block1"])),
  ],
  ids=["optimizer", "rule"],
)
def test_gradient_similarity_looks_at_what_is_fine_tuned_alone(base, runtime, tmp_path, how):
  one = dict(base, patching=dict(two=base["patching"]["two"]), fine_tune=base["fine_tune"] | how)
  [row] = run(one, runtime, tmp_path / "run")
  bench = bench_of(one, runtime, tmp_path)
  before, after = (bench.path("two").weights(end)["params"] for end in (0.0, 1.0))
  gradient = bench.tasks.gradient("old", before, bench.before["batch_stats"])
  sides = [jax.tree.leaves(side) for side in (gradient, before, after)]
  g, d = zip(*((g, b - a) for g, a, b in zip(*sides, strict=True) if np.any(a != b)), strict=True)
  assert 0 < len(d) < len(sides[0])
  g, d = (np.concatenate([np.ravel(leaf) for leaf in side]).astype(np.float64) for side in (g, d))
  expected = -(g @ d) / np.linalg.norm(g) / np.linalg.norm(d)
  assert row["gradient_similarity"] == pytest.approx(expected, rel=1e-4)
  whole = weights.gradient_similarity(gradient, weights.between(before, after)).value
  assert abs(whole - expected) > 1e-2 * abs(expected)


def test_an_interrupted_study_goes_on_with_the_pairs_that_are_left(base, runtime, tmp_path):
  first = run(base, runtime, tmp_path / "run")
  folder = tmp_path / "run" / "a" / "0"
  kept = sealed_json.read(folder / "pairs" / "old.two.json") | {"gain": 7.0}
  (folder / "pairs" / "old.two.json").write_text(sealed_json.text(kept))
  (folder / "pairs" / "old.three.json").unlink()
  (folder / "rows.jsonl").unlink()
  again = run(base, runtime, tmp_path / "run")
  assert again[0]["gain"] == 7.0  # read back
  differing = {key for key in first[1] if again[1][key] != first[1][key]}
  assert differing <= {"seconds", "search_seconds", "session"}


@pytest.mark.parametrize("part", ["d", "config"])
def test_a_pair_whose_fine_tuned_weights_have_rotted_is_tuned_anew(base, runtime, tmp_path, part):
  base["patching"].pop("three")
  first = run(base, runtime, tmp_path / "run")
  folder = tmp_path / "run" / "a" / "0"
  (folder / "pairs" / "old.two.json").unlink()
  (folder / "rows.jsonl").unlink()
  steps = folder / "fine_tune" / "two" / "checkpoints"
  (step,) = steps.iterdir()
  inside = step / "model" if part == "d" else step
  file = max((inside / part).rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  before = (folder / "fine_tune" / "two" / "metrics.jsonl").read_text()
  again = run(base, runtime, tmp_path / "run")
  differing = {key for key in first[0] if again[0][key] != first[0][key]}
  assert differing <= {"seconds", "search_seconds", "session"}
  said = (tmp_path / "run" / "log.txt").read_text()
  assert f"Renamed to {step.name}.damaged; there is no older step" in said
  assert "no intact step, and 1 damaged; this training starts over" in said
  assert {path.name for path in steps.iterdir()} == {step.name, f"{step.name}.damaged"}
  after = (folder / "fine_tune" / "two" / "metrics.jsonl").read_text()
  assert after.count("\n") == before.count("\n")  # not those of both trainings


def test_a_stop_comes_between_two_batches_of_a_sweep_and_changes_nothing(base, runtime, tmp_path):
  one = dict(base, patching=dict(two=base["patching"]["two"]))
  [first] = run(one, runtime, tmp_path / "run")
  folder = tmp_path / "run" / "a" / "0"
  for file in (folder / "rows.jsonl", folder / "pairs" / "old.two.json"):
    file.unlink()

  def stopping(*arguments):
    here = runtime(*arguments)
    here.interruption = Stop(40)  # nothing is trained any more, so that only the sweep asks
    return here

  with pytest.raises(Restart, match=r"stopped during sweep, α 0\.\d+, (old|two) validation"):
    run(one, stopping, tmp_path / "run")
  assert not list((folder / "pairs").iterdir())
  [again] = run(one, runtime, tmp_path / "run")
  differing = {key for key in first if again[key] != first[key]}
  assert differing <= {"seconds", "search_seconds", "session"}


def test_the_time_left_counts_sweeps_and_nothing_is_left_at_the_end(base, runtime, tmp_path):
  merging = dict(methods=["joint", "sequential", "task_arithmetic", "negation"], step=0.5)
  folder = tmp_path / "run" / "a" / "0"

  def measured(**changes):
    here = runtime()
    here.progress = Counted()
    run(base, lambda: here, tmp_path / "run", merging=merging, statistics_batches=1, **changes)
    assert here.progress.left == pytest.approx(0, abs=1e-6)
    assert max(here.progress.shares, default=0) < 1.2  # about: a search takes as many evaluations as it likes
    return here.progress

  whole = measured()
  said = "\n".join(whole.notes)
  for text in (
    "old x two: searched with ",
    "old x two: grid of 21, best at ",
    "joint: ",
    "negation of two: ",
  ):
    assert text in said
  (folder / "rows.jsonl").unlink()
  assert measured().shares == []
  (folder / "rows.jsonl").unlink()
  (folder / "pairs" / "old.three.json").unlink()
  (folder / "merges" / "task_arithmetic.json").unlink()
  part = measured()
  assert 0 < len(part.shares) < len(whole.shares)


def test_the_head_stays_as_it_is_and_the_rest_moves(base, runtime, tmp_path):
  bench = bench_of(base, runtime, tmp_path)
  after = bench.fine_tuned("two")
  saved = checkpoint.load(tmp_path / "bench" / "0" / "fine_tune" / "two")
  head = bench.tasks.head("two")
  assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), saved.params["head"], head))
  assert "heads" not in after
  assert "head" not in after["params"]
  moved = jax.tree.map(lambda a, b: np.any(a != b), after["params"], bench.before["params"])
  assert all(jax.tree.leaves(moved))
  trained = bench_of(base, runtime, tmp_path / "wise", train_head=True)
  assert tree.norm(tree.sub(trained.fine_tuned("two")["heads"]["two"], trained.tasks.head("two"))) > 0
  path = trained.path("two")
  assert set(path.weights(0.5)["heads"]) == {"two"}


@pytest.mark.parametrize(
  "change",
  [
    dict(normalise="endpoints"),
    dict(normalise="none"),
    dict(normalise="log_classes"),
    dict(search=dict(fn=".weights.brent")),
    dict(head=dict(fn=".studies.patching.linear_probe", l2=(10.0,))),
    dict(statistics_batches=2),
    dict(train_head=True),
  ],
  ids=lambda change: next(iter(change)) + str(next(iter(change.values())))[:20],
)
def test_an_option_changes_the_coefficient(base, runtime, tmp_path, change):
  one = dict(base, patching=dict(two=base["patching"]["two"]))
  usual = run(one, runtime, tmp_path / "usual")[0]
  [row] = run(one, runtime, tmp_path / "changed", **change)
  assert row["optimised/alpha"] != usual["optimised/alpha"]
  if "statistics_batches" in change:  # the ends keep the stored ones
    assert row["fine_tuned/test_patching_loss"] == usual["fine_tuned/test_patching_loss"]


def test_wider_bounds_let_the_search_go_beyond_the_fine_tuned_weights(base, runtime, tmp_path):
  """Fine-tuned for a few steps at a low rate: there is more to be had in the same direction."""
  short = dict(
    base,
    patching=dict(two=base["patching"]["two"]),
    fine_tune=base["fine_tune"] | dict(optimizer=dict(make=".optim.adam", peak_rate=0.002), epochs=0.5),
  )
  search = dict(fn=".weights.optimize_alpha")
  [within] = run(short, runtime, tmp_path / "within", search=search)
  assert within["optimised/alpha"] == max(within["curve"]["alpha"]) == 1
  [beyond] = run(short, runtime, tmp_path / "beyond", search=search | dict(bounds=[0.0, 1.2]))
  assert max(beyond["curve"]["alpha"]) == 1.2
  assert 1 < beyond["optimised/alpha"] <= 1.2
  assert beyond["optimised/objective"] < within["optimised/objective"]
  assert beyond["warm_started/objective"] <= beyond["grid_0.05/objective"] == within["grid_0.05/objective"]
  assert beyond["boundary"] == (1.2 if beyond["optimised/alpha"] == 1.2 else None)


def test_a_probe_becomes_a_head(base, runtime, tmp_path):
  """Standardisation goes into kernel and bias: the same logits."""
  bench = bench_of(base, runtime, tmp_path)
  rng = np.random.default_rng(0)
  features = rng.normal(3, [1, 2, 5], (60, 3)).astype(np.float32)
  labels = (features[:, 0] + features[:, 2] > 6).astype(np.int32)
  backbone = bench.tasks.backbone
  around = frozen_heads.HeadInputs("x", backbone.start, "head", ("a", "b"), lambda: (features, labels))
  head = frozen_heads.linear_probe(around, l2=(0.01,))
  from jaxtl.optim import fit_probe

  probe = fit_probe(features, labels, num_classes=2, l2=0.01, max_iters=300)
  np.testing.assert_allclose(features @ head["kernel"] + head["bias"], probe.logits(features), atol=1e-4)


def test_the_report_shows_pairs_rules_indicators_and_curves(finished, tmp_path):
  file = finished / "a" / "0" / "rows.jsonl"
  [first] = sealed_json.read_lines(file)
  more = [
    first | {"patching": f"task{i}", "gradient_similarity": i / 4, "backward_transfer": i / 2 - 0.3}
    for i in range(3)
  ]
  more[0] |= {"unimodal": False, "boundary": 1}
  file.write_text(sealed_json.lines_text([first, *more]))
  report.write(finished, tmp_path / "out")
  text = (tmp_path / "out" / "report.md").read_text()
  assert "mean over 4 pairs (and seeds)" in text
  assert "not unimodal, at the end 1" in text
  for title in ("Pairs of a", "Rules of a", "Indicators of a", "Does one gradient predict"):
    assert title in text
  assert f"{100 * first['optimised/test_patching_top1']:.1f}" in text
  for name in ("patching_a", "patching_accuracy_a", "indicators"):
    assert (tmp_path / "out" / f"{name}.png").stat().st_size > 10_000

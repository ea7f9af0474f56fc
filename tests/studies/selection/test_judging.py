"""How predictors are judged: against independent computations, and on numbers that carry a known order."""

import numpy as np
import pytest
import scipy.stats

from jaxtl.studies.selection import judging, report
from jaxtl.studies.selection.judging import grounds, judge, judgements


def rows(
  accuracies,
  scores,
  *,
  source=None,
  parameters=None,
  clusters=None,
  heads=None,
  architectures=None,
  protocol="linear_probe",
):
  """Rows of M checkpoints on T targets: [T, M] accuracies as shares, and name -> [T, M] scores."""
  found = []
  num_targets, num = np.shape(accuracies)
  for m in range(num):
    about = dict(
      kind="weight",
      arm=f"w{m}",
      seed=0,
      cluster=f"w{m}" if clusters is None else clusters[m],
      source_accuracy=None if source is None else source[m],
      parameters=1 if parameters is None else parameters[m],
      head_classes=10 if heads is None else heads[m],
      architecture="resnet8" if architectures is None else architectures[m],
    )
    found.append(about)
    for t in range(num_targets):
      common = dict(arm=f"w{m}", seed=0, target=f"t{t}")
      for name, values in scores.items():
        value = values[t][m]
        held = dict(left_out="no") if value is None else dict(value=value)
        found.append(dict(kind="score", score=name, **held, **common))
      found.append(dict(kind="transfer", protocol=protocol, accuracy=accuracies[t][m], **common))
  return found


@pytest.fixture(scope="module")
def random():
  rng = np.random.default_rng(0)
  accuracies = rng.uniform(0.4, 0.9, (3, 6))
  scores = dict(ridge=accuracies + rng.normal(0, 0.1, (3, 6)), logme=rng.normal(size=(3, 6)))
  source = accuracies.mean(axis=0) + rng.normal(0, 0.05, 6)
  return accuracies, scores, source, grounds(rows(accuracies, scores, source=source), "linear_probe")


def test_the_measures_are_those_of_scipy_and_of_a_hand(random):
  accuracies, scores, _, given = random
  found = judge(given, "ridge", draws=20)
  taus = [scipy.stats.weightedtau(s, a).statistic for s, a in zip(scores["ridge"], accuracies, strict=True)]
  assert found.taus == pytest.approx(taus)
  assert found.tau.estimate == pytest.approx(np.mean(taus))
  expected = [scipy.stats.spearmanr(s, a).statistic for s, a in zip(scores["ridge"], accuracies, strict=True)]
  assert found.spearman == pytest.approx(np.mean(expected))
  expected = [scipy.stats.pearsonr(s, a).statistic for s, a in zip(scores["ridge"], accuracies, strict=True)]
  assert found.pearson == pytest.approx(np.mean(expected))
  lost = [100 * (a.max() - a[s.argmax()]) for s, a in zip(scores["ridge"], accuracies, strict=True)]
  assert found.regret == pytest.approx(np.mean(lost))
  assert found.close == sum(one <= 1 for one in lost)
  assert found.judged == 3


def test_the_gain_is_the_difference_of_the_means(random):
  _, _, _, given = random
  own, known = (judge(given, name, draws=20) for name in ("ridge", "source_accuracy"))
  assert own.gain.estimate == pytest.approx(own.tau.estimate - known.tau.estimate)
  assert known.gain is None
  assert known.partial is None


def test_a_score_that_repeats_the_source_accuracy_adds_nothing():
  rng = np.random.default_rng(1)
  accuracies = rng.uniform(0.4, 0.9, (4, 8))
  source = rng.uniform(0.4, 0.9, 8)
  given = grounds(rows(accuracies, dict(ridge=np.tile(2 * source, (4, 1))), source=source), "linear_probe")
  found = judge(given, "ridge", draws=50)
  assert found.gain == (0.0, 0.0, 0.0)
  assert not found.gain.excludes_zero
  assert found.partial is None  # nothing is left of it


def test_a_perfect_score_is_first_and_known_to_be_better():
  rng = np.random.default_rng(2)
  accuracies = rng.uniform(0.4, 0.9, (8, 10))
  source = rng.permutation(10) / 10
  given = grounds(rows(accuracies, dict(ridge=accuracies, logme=-accuracies), source=source), "linear_probe")
  first, *_, last = judgements(given, draws=100)
  assert first.predictor == "ridge"
  assert first.tau.estimate == pytest.approx(1)
  assert first.regret == 0
  assert first.close == 8
  assert first.gain.excludes_zero
  assert (last.predictor, last.tau.estimate) == ("logme", pytest.approx(-1))


def test_baselines_need_no_image_of_the_target(random):
  accuracies, scores, source, given = random
  assert set(given.predictors) == {"ridge", "logme", "source_accuracy", "parameters", "other_targets"}
  others = 100 * np.stack([(accuracies.sum(axis=0) - row) / 2 for row in accuracies])
  np.testing.assert_allclose(given.predictors["other_targets"], others)
  np.testing.assert_allclose(given.predictors["source_accuracy"], np.tile(source, (3, 1)))
  single = grounds(rows(accuracies[:1], dict(ridge=scores["ridge"][:1])), "linear_probe")
  assert set(single.predictors) == {"ridge", "parameters"}


def test_seeds_are_averaged_and_other_protocols_do_not_count():
  first = rows([[0.5, 0.6]], dict(ridge=[[1.0, 2.0]]))
  second = [dict(row, seed=1) for row in rows([[0.7, 0.8]], dict(ridge=[[3.0, 2.0]]))]
  other = rows([[0.1, 0.2]], {}, protocol="fine_tune")
  given = grounds([*first, *second, *other], "linear_probe")
  np.testing.assert_allclose(given.accuracies, [[60, 70]])
  np.testing.assert_allclose(given.predictors["ridge"], [[2, 2]])
  assert grounds(first, "fine_tune") is None
  assert grounds([row for row in first if row["arm"] == "w0"], "linear_probe") is None


def test_missing_scores_leave_their_checkpoint_out():
  accuracies = [[0.5, 0.6, 0.7, 0.9]]
  given = grounds(rows(accuracies, dict(leep=[[None, -3.0, -2.0, -1.0]])), "linear_probe")
  found = judge(given, "leep", draws=20)
  assert found.tau.estimate == pytest.approx(1)
  nothing = grounds(rows(accuracies, dict(leep=[[None, None, None, -1.0]])), "linear_probe")
  assert judge(nothing, "leep", draws=20) is None


def test_scores_of_heads_of_different_classes_are_left_out():
  given = grounds(
    rows([[0.5, 0.6]], dict(leep=[[-1.0, -2.0]], ridge=[[1, 2]]), heads=[10, 1000]), "linear_probe"
  )
  assert "leep" not in given.predictors
  assert given.left_out == {"leep": "the heads have different numbers of classes"}
  # A checkpoint without a head has no score to compare.
  given = grounds(rows([[0.5, 0.6, 0.7]], dict(leep=[[-1.0, -2.0, None]]), heads=[10, 10, 0]), "linear_probe")
  assert "leep" in given.predictors


def test_seeds_of_one_recipe_are_one_cluster():
  rng = np.random.default_rng(3)
  accuracies = rng.uniform(0.4, 0.9, (3, 6))
  two = grounds(rows(accuracies, dict(ridge=accuracies), clusters=list("aaabbb")), "linear_probe")
  assert two.num_clusters == 2
  assert np.isnan(judge(two, "ridge", draws=20).tau.low)
  three = grounds(rows(accuracies, dict(ridge=accuracies), clusters=list("aabbcc")), "linear_probe")
  assert judge(three, "ridge", draws=20).tau.low == pytest.approx(1)


def test_intervals_of_a_random_score_have_no_gain_in_most_studies():
  """A score and a source accuracy without relation to the accuracies: 95 % intervals leave 0 in few of 20."""
  wrong = 0
  for seed in range(20):
    rng = np.random.default_rng(seed)
    accuracies, scores, source = rng.random((4, 8)), rng.random((4, 8)), rng.random(8)
    given = grounds(rows(accuracies, dict(ridge=scores), source=source), "linear_probe")
    wrong += judge(given, "ridge", draws=60).gain.excludes_zero
  # At a rate of 10 %, over 6 of 20 has a probability of 0.0024.
  assert wrong <= 6


def test_chance_is_that_of_random_orders(random):
  # The spec of the nulls: 0.68 for 6 checkpoints, 0.81 for 4.
  assert judging.chance(random[-1]) == pytest.approx(0.68, abs=0.05)
  assert judging.chance(grounds(rows([[0.1, 0.2]], {}), "linear_probe")) is None


def test_within_an_architecture_size_does_not_help():
  # Two architectures of four checkpoints; the larger one is better, and within each the score is reversed.
  accuracies = np.array([[0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9]])
  scores = np.array([[4, 3, 2, 1, 14, 13, 12, 11.0]])
  found = rows(accuracies, dict(ridge=scores), architectures=["small"] * 4 + ["large"] * 4)
  given = grounds(found, "linear_probe")
  ridge = judge(given, "ridge", draws=20)
  assert ridge.within == pytest.approx(-1)
  assert ridge.tau.estimate > 0
  other = grounds(rows(accuracies, dict(ridge=scores), architectures=list("abcdefgh")), "linear_probe")
  assert judge(other, "ridge", draws=20).within is None


def test_predictors_that_tie_for_the_first_place_are_counted():
  accuracies = np.array([[0.1, 0.2, 0.3]])
  given = grounds(
    rows(accuracies, dict(ridge=accuracies, logme=2 * accuracies, lfc=-accuracies)), "linear_probe"
  )
  said = report._best(given, judgements(given, draws=5))
  assert said.startswith("ridge and 1 other order 3 checkpoints best, with a weighted tau of 1.000")
  given = grounds(rows(accuracies, dict(lfc=-accuracies, ridge=accuracies)), "linear_probe")
  assert report._best(given, judgements(given, draws=5)).startswith("ridge orders 3 checkpoints best")

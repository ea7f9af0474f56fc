"""The order of weights, how sure it is, and the sentence that says it."""

import json

import numpy as np
import pytest

from jaxtl import metrics
from jaxtl.errors import InputError
from jaxtl.selection import page, tables
from jaxtl.selection.ranking import rank_weights
from jaxtl.selection.verdict import qualifications, verdict
from tests.selection.rows import TARGET, row, score


def rank(*rows, by="ridge", **options):
  return rank_weights(list(rows), by=by, target=TARGET, **options)


def test_the_order_the_gap_and_its_error_are_those_of_the_images():
  # One image fewer than the best, of which 41 are others.
  near = [float(i >= 20) for i in range(169)] + [0.0] * 31
  found = rank(row("low", hits=100), row("high", hits=150), row("middle", hits=149, terms=near))
  assert [place.name for place in found.places] == ["high", "middle", "low"]
  best, middle, low = found.places
  assert best.behind is None
  # 50 of 200 images differ: the mean is 0.25, and the deviation of the mean sqrt(0.25 x 0.75 / 200).
  assert low.behind == pytest.approx((0.25, np.sqrt(0.25 * 0.75 / 200)))
  # 0.005 ± 0.014: within one standard error, which shares the rank.
  assert [place.rank for place in found.places] == [1, 1, 3]
  assert sum(place.first for place in found.places) == pytest.approx(1)
  expected = metrics.first_shares(metrics.resampled_means(np.array([p.row["terms"] for p in found.places])))
  assert (best.first, middle.first, low.first) == pytest.approx(tuple(expected), abs=0.05)
  assert best.low < 0.75 < best.high
  assert best.high - best.low == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 200), rel=0.15)


def test_equal_weights_share_rank_and_place():
  found = rank(row("a", hits=120), row("b", hits=120))
  assert [place.rank for place in found.places] == [1, 1]
  assert [place.first for place in found.places] == [0.5, 0.5]
  assert "the images do not tell it apart from b" in verdict(found)


def test_the_seed_and_the_number_of_resamples_matter():
  rows = row("a", hits=120), row("b", hits=118)
  first = [place.first for place in rank(*rows).places]
  assert first == [place.first for place in rank(*rows).places]
  assert first != [place.first for place in rank(*rows, seed=1).places]
  assert rank(*rows, draws=10).draws == 10


def test_a_score_of_moments_is_resampled_and_one_without_either_has_no_certainty():
  def weight(name, value, spread):
    resampled = list(value + spread * np.linspace(-1, 1, 11))
    return row(name, scores=dict(logme=score(value)), resampled=resampled)

  found = rank(weight("a", 1.0, 0.1), weight("b", 0.5, 0.2), by="logme")
  assert found.draws == 11
  assert [place.first for place in found.places] == [1, 0]
  assert found.places[0].standard_error == pytest.approx(float(np.std(0.1 * np.linspace(-1, 1, 11))))
  # The resamples are paired: the difference has the deviation of 0.1 x, not of both.
  assert found.places[1].behind == pytest.approx((0.5, float(np.std(0.1 * np.linspace(-1, 1, 11)))))
  unsure = rank(row("a", scores=dict(logme=score(1.0))), row("b", scores=dict(logme=score(0.5))), by="logme")
  assert [place.first for place in unsure.places] == [None, None]
  assert "how sure that is cannot be said" in verdict(unsure)


def test_a_faster_and_clearly_better_weight_dominates():
  found = rank(
    row("slow", hits=100, milliseconds=5.0),
    row("fast", hits=150, milliseconds=1.0),
    row("best", hits=160, milliseconds=9.0),
    row("near", hits=149, milliseconds=2.0),
  )
  assert {place.name: place.dominated_by for place in found.places} == {
    "best": None,
    "fast": None,
    "near": None,  # one image behind `fast`, which is no two standard errors
    "slow": "fast",
  }


def test_a_weight_without_the_score_comes_last_and_says_why():
  broken = row("broken", scores=dict(ridge=dict(left_out="the features of 3 of 200 images have a NaN")))
  found = rank(broken, row("a", hits=100), row("b", hits=50))
  assert [(place.name, place.rank) for place in found.places] == [("a", 1), ("b", 2), ("broken", None)]
  assert "broken has no place: the features of 3 of 200 images have a NaN." in qualifications(found)
  with pytest.raises(InputError, match="no weight has the score ridge: the features of 3"):
    rank(broken)


def test_rows_of_other_images_are_refused():
  with pytest.raises(InputError, match="a was scored on 200 images and b on other 100"):
    rank(row("a", hits=5), row("b", hits=5, num=100, images="3" * 16))


def test_the_sentence_says_which_weight_how_sure_and_who_disagrees():
  one = row("a", hits=160, scores=dict(logme=score(1.0), knn_1=score(0.5), leep=score(-1.0), nc1=score(9.0)))
  other = row(
    "b", hits=100, scores=dict(logme=score(0.5), knn_1=score(0.7), leep=score(-2.0), nc1=score(1.0))
  )
  found = rank(one, other)
  assert verdict(found) == (
    "Take a: ridge 80.0 % (95 %: "
    f"{100 * found.places[0].low:.1f} to {100 * found.places[0].high:.1f}); it is first in 100 % of 1,000 "
    "resamples of the images; the next is b, 30.0 ± 3.2 points behind; the scores disagree, 2 of 3 others "
    "put it first and 1-NN would take b."
  )
  # A description of the features has no say.
  assert [(one.score, one.first, one.tau) for one in found.agreements] == [
    ("logme", ("a",), 1.0),
    ("knn_1", ("b",), -1.0),
    ("leep", ("a",), 1.0),
  ]
  alone = rank(row("a", hits=160))
  assert "there is no other weight to compare it with" in verdict(alone)
  agreeing = rank(one | dict(scores=one["scores"] | dict(knn_1=score(0.9))), other)
  assert "all 3 other scores agree on it" in verdict(agreeing)


def test_heads_of_different_classes_are_not_compared():
  found = rank(
    row("a", hits=160, scores=dict(leep=score(-3.0)), head_classes=1000),
    row("b", hits=100, scores=dict(leep=score(-1.0)), head_classes=10),
  )
  assert not found.agreements
  assert "LEEP are not compared: the heads have different numbers of classes." in " ".join(
    qualifications(found)
  )


def test_static_baselines_and_shared_images_qualify_the_verdict():
  found = rank(
    row("a", hits=160, source_accuracy=0.6, parameters=10, seen_images=7),
    row("b", hits=100, source_accuracy=0.7, parameters=10**6),
  )
  said = " ".join(qualifications(found))
  assert "The highest accuracy on the source data would take b." in said
  assert "The most parameters would take b." in said
  assert "a was trained on 7 of these 200 images" in said
  said = " ".join(qualifications(rank(row("a", hits=9), row("b", hits=5, source_accuracy=0.5))))
  assert "is unknown for all but b; give --source-accuracy" in said


def test_a_control_that_reaches_a_weight_is_named():
  control = dict(row("x", hits=100), control="8 x 8 pixels")
  found = rank(row("a", hits=160), row("b", hits=90), controls=[control])
  assert "The control 8 x 8 pixels reaches b: features that learned nothing." in qualifications(found)
  assert "control: 8 x 8 pixels" in tables.terminal(found)


def test_the_files_hold_the_same_numbers():
  bad = "<script>&"
  found = rank(
    row("a", hits=160, scores=dict(logme=score(1.25))),
    row(bad, hits=100, scores=dict(logme=dict(left_out="no <reason>"))),
  )
  files = page.files(found)
  assert set(files) == {"ranking.json", "ranking.csv", "order.png", "index.html"}
  about = json.loads(files["ranking.json"])
  assert about["verdict"] == verdict(found)
  assert [one["weight"] for one in about["rows"]] == ["a", bad]
  assert about["rows"][0]["first"] == found.places[0].first
  assert about["rows"][0]["scores"]["logme"]["value"] == 1.25
  assert not {"terms", "resampled"} & set(about["rows"][0])
  header, first, second = files["ranking.csv"].splitlines()
  columns = header.split(",")
  assert first.split(",")[columns.index("logme")] == "1.25"
  assert second.split(",")[columns.index("logme")] == ""
  text = files["index.html"]
  assert "<script" not in text
  assert "&lt;script&gt;&amp;" in text
  assert "LogME left out for &lt;script&gt;&amp;: no &lt;reason&gt;." in text
  terminal = tables.terminal(found)
  assert verdict(found) in terminal
  assert "80.0 ± 2.8" in terminal
  assert "order.png" not in page.files(rank(row("a", hits=160)))

"""The tables of a patching study."""

import dataclasses

import numpy as np

from jaxtl.report.results import load
from jaxtl.studies.patching import tables as patching_tables


def test_the_report_says_how_gradient_and_transfer_correlate(finished):
  results = load(finished)
  [row] = results.rows
  similar = [
    dict(row, gradient_similarity=x, backward_transfer=x**3, patching=str(x)) for x in (-1.0, 0.0, 2.0)
  ]
  [grid] = [
    g for g in patching_tables.behind(dataclasses.replace(results, rows=similar)) if "predict" in g.title
  ]
  assert grid.rows == [["a", "old", "3", f"{np.corrcoef([-1, 0, 2], [-1, 0, 8])[0, 1]:.2f}", "1.00"]]
  assert not [g for g in patching_tables.behind(results) if "predict" in g.title]  # one pair says nothing


def test_the_caption_explains_joint_fine_tuning_only_where_there_is_some(finished):
  results = load(finished)
  numbers = dict(test_patching_top1=0.5, test_supported_top1=0.5, normalised_accuracy=1.0)

  def explained(*methods):
    rows = [dict(numbers, kind="merge", arm="a", seed=0, method=method) for method in methods]
    [table] = patching_tables.make_tables(merged := dataclasses.replace(results, rows=rows))
    return dict(patching_tables.caption(merged, table)).keys()

  assert "joint" in explained("ties", "joint")
  assert "joint" not in explained("ties")
  assert explained("ties") | {"joint"} == explained("joint")

import dataclasses

import pytest

from jaxtl.config import call
from jaxtl.report import findings
from jaxtl.report import results as results_lib
from jaxtl.report.results import Results
from jaxtl.report.section import Headline, Section
from jaxtl.studies.patching import report as patching_report
from jaxtl.studies.pretrain import report as pretrain_report
from jaxtl.studies.pretrain import tables
from jaxtl.studies.pretrain.tables import make_table
from jaxtl.studies.transfer import report as transfer_report
from jaxtl.studies.transfer.captions import caption
from jaxtl.studies.transfer.results import protocols
from tests.report import example_study


def study(accuracies, *, seeds=(0, 1)):
  """One target, fine-tuned; `accuracies` is arm -> one value for each finished seed."""
  rows = [
    {
      "arm": arm,
      "seed": seed,
      "kind": "transfer",
      "target": "pets",
      "protocol": "fine_tune",
      "accuracy": value,
    }
    for arm, values in accuracies.items()
    for seed, value in zip(seeds, values)
  ]
  config = {"study": "x", "base": {}, "arms": {arm: {} for arm in accuracies}, "seeds": list(seeds)}
  return Results(config, {}, rows, {}, frozenset((row["arm"], row["seed"]) for row in rows))


def section_of(results):
  """What the head of a page needs of a section, with nothing drawn."""
  return Section(
    headline=transfer_report.headline(results), warnings=tuple(pretrain_report.warnings(results))
  )


def finding(results):
  return findings.finding(results, section_of(results))


def qualifications(results):
  return findings.qualifications(results, section_of(results))


def test_finding_names_the_best_the_next_and_the_first():
  [found] = finding(study({"first": [0.5, 0.5], "a": [0.8, 0.9], "b": [0.7, 0.7]}))
  assert found == (
    "Best accuracy on pets by fine-tuning: a 0.850 ± 0.071 over 2 seeds; "
    "0.150 ahead of b (the next best) and 0.350 ahead of first (the first arm)."
  )


@pytest.mark.parametrize(
  ("other", "said"),
  [
    (0.8, "a 0.800 (one seed); equal to b (the next best)."),
    (0.7997, "a 0.800 (one seed); a tie, less than 0.001 from b (the next best)."),
    (0.799, "a 0.800 (one seed); 0.001 ahead of b (the next best)."),
  ],
)
def test_a_difference_that_is_not_seen_is_a_tie(other, said):
  [found] = finding(study({"a": [0.8], "b": [other]}, seeds=(0,)))
  assert found.endswith(said)
  assert "0.000" not in found


def test_a_tie_in_a_seed_is_no_lead_in_it():
  said = qualifications(study({"a": [0.8, 0.9], "b": [0.8, 0.9]}))
  assert "ahead in 0 of 2 seeds" in said[0]
  results = study({"a": [0.8, 0.9], "b": [0.8, 0.9]})
  flattest = Headline("Flattest", "λ_max", {arm: {0: 3.0, 1: 3.0} for arm in "ab"}, larger=False)
  assert "ahead in 0 of 2 seeds" in findings.qualifications(results, Section(flattest))[0]


def test_fine_tuning_below_the_probe_is_told():
  results = study({"a": [0.6, 0.8], "b": [0.9, 0.9]})
  probes = [row | {"protocol": "linear_probe", "accuracy": 0.75, "l2": 0.01} for row in results.rows]
  said = qualifications(dataclasses.replace(results, rows=[*results.rows, *probes]))
  [told] = [text for text in said if "below the linear probe" in text]
  assert told == (
    "Fine-tuning ends below the linear probe: a on pets (0.700 against 0.750). "
    "Another rate or length may help."
  )
  assert not [text for text in qualifications(results) if "below" in text]


def test_fine_tuning_below_its_own_start_is_told():
  rows = [
    {"arm": "a", "seed": 0, "kind": "patch", "patching": name, "optimised/test_supported_top1": 0.5}
    | {
      "optimised/test_patching_top1": 0.5,
      "zero_shot/test_patching_top1": start,
      "fine_tuned/test_patching_top1": end,
    }
    for name, start, end in (
      ("worse", 0.5, 0.4),
      ("worse", 0.5, 0.4),
      ("better", 0.5, 0.6),
      ("same", 0.5, 0.5),
    )
  ]
  config = {"study": "x", "base": {}, "arms": {"a": {}}, "seeds": [0]}
  told = patching_report.warnings(Results(config, {}, rows, {}, frozenset({("a", 0)})))
  assert told == [
    "Fine-tuning ends below its own start: a on worse (0.400 after 0.500). Another rate or length may help."
  ]


@pytest.mark.parametrize(("chosen", "end"), [(0.05, "smallest"), (0.2, "largest"), (0.1, None)])
def test_a_rate_or_penalty_at_the_end_of_its_grid_is_told_at_the_head(chosen, end):
  results = study({"a": [0.8, 0.9]})
  trials = [
    {"arm": "a", "seed": 0, "kind": "tune", "peak_rate": rate, "accuracy": 0.5 + 0.1 * (rate == chosen)}
    for rate in (0.05, 0.1, 0.2)
  ]
  rates = dataclasses.replace(results, rows=[*results.rows, *trials])
  told = [text for text in qualifications(rates) if text.startswith("At an end of the values tried")]
  expected = f"At an end of the values tried: a ({end} rate). A better value may lie beyond."
  assert told == ([expected] if end else [])
  probes = [row | {"protocol": "linear_probe", "l2": chosen} for row in results.rows]
  config = results.config | {"base": {"transfer": {"targets": {}, "linear_probe": {"l2": [0.05, 0.1, 0.2]}}}}
  penalties = dataclasses.replace(results, rows=[*results.rows, *probes], config=config)
  told = [text for text in qualifications(penalties) if "penalties" in text]
  expected = f"At an end of the probe's penalties: a on pets ({end}). A better penalty may lie beyond."
  assert told == ([expected] if end else [])


def test_seeds_that_overlap_are_called_so():
  said = qualifications(study({"a": [0.8, 0.9], "b": [0.7, 0.85]}))
  assert "the seeds overlap, so the difference is within the spread" in said[0]
  assert "ahead in 2 of 2 seeds" in said[0]


def test_seeds_that_do_not_overlap_are_called_so():
  assert "do not overlap" in qualifications(study({"a": [0.8, 0.9], "b": [0.7, 0.75]}))[0]


def test_one_seed_claims_nothing():
  results = study({"a": [0.8], "b": [0.7]}, seeds=(0,))
  assert "(one seed)" in finding(results)[0]
  assert "may be chance" in qualifications(results)[0]


def test_missing_cells_are_named():
  said = " ".join(qualifications(study({"a": [0.8, 0.9], "b": [0.7]})))
  assert "3 of 4 cells" in said
  assert "missing: b/1" in said


def with_sessions(results, *asked):
  first, *later = [{"asked": {"arms": list(arms), "seeds": list(seeds)}} for arms, seeds in asked]
  return dataclasses.replace(results, env=first | {"later": later})


def test_a_subset_that_was_asked_for_is_complete():
  half = study({"a": [0.8], "b": []})
  said = qualifications(with_sessions(half, (["a"], [0])))
  assert said[0] == "What was requested is complete: a, seed 0."
  assert said[1] == "Not requested (--arms, --seeds): a/1, b/0, b/1."
  assert "unfinished" not in " ".join(said)


def test_a_subset_that_was_asked_for_may_be_unfinished():
  half = study({"a": [0.8], "b": []})
  said = " ".join(qualifications(with_sessions(half, (["a"], [0]), (["a"], [0, 1]))))
  assert "1 of 4 cells (arm/seed) are done; missing: a/1." in said
  assert "Not requested (--arms, --seeds): b/0, b/1." in said
  everything = " ".join(qualifications(with_sessions(half, (["a"], [0]), (["a", "b"], [0, 1]))))
  assert "missing: a/1, b/0, b/1." in everything
  assert "Not requested" not in everything


@pytest.mark.parametrize("asked", [None, 3, {"arms": ["a"]}, {"arms": 3, "seeds": [0]}])
def test_sessions_that_say_nothing_were_to_finish_all(asked):
  results = dataclasses.replace(study({"a": [0.8], "b": []}), env={"asked": asked, "later": [{}]})
  assert len(results.asked) == 4
  assert len(dataclasses.replace(results, env={"asked": {}, "later": 3}).asked) == 4


def test_one_arm_is_not_called_the_best():
  assert finding(study({"a": [0.8, 0.9]})) == [
    "Accuracy on pets by fine-tuning, a: 0.850 ± 0.071 over 2 seeds."
  ]
  [text] = finding(study({"a": [0.8, 0.9], "b": []}))
  assert "there is no other arm to compare it with" in text


def test_patching_compares_accuracies_and_not_sums_of_losses_on_different_scales():
  rows = [
    {"arm": arm, "seed": 0, "kind": "patch", "optimised/objective": total}
    | {"optimised/test_supported_top1": old, "optimised/test_patching_top1": new}
    for arm, total, old, new in (("ratio", 2.0, 0.5, 0.7), ("classes", 0.5, 0.4, 0.5))
  ]
  config = {"study": "x", "base": {}, "arms": {"ratio": {}, "classes": {}}, "seeds": [0]}
  results = Results(config, {}, rows, {}, frozenset({("ratio", 0), ("classes", 0)}))
  [found] = findings.finding(results, Section(patching_report.headline(results)))
  assert "ratio 0.600" in found
  assert "0.150 ahead of classes" in found


def test_nothing_finished_is_said():
  results = study({"a": [], "b": []})
  assert "no numbers yet" in finding(results)[0]
  assert "0 of 4 cells" in qualifications(results)[0]


def captions_of(results):
  return {name: dict(caption(results, make_table(results, name), name)) for name in protocols(results)}


def test_caption_states_the_protocol(tmp_path):
  results = results_lib.load(example_study.write(tmp_path))
  captions = captions_of(results)
  fine_tune = captions["fine_tune"]
  for part in ("6 epochs", "adam(peak_rate=0.001", "batches of 64", "statistics frozen", "32 x 32 pixels"):
    assert part in fine_tune["Protocol"]
  assert "flatters" in fine_tune["Accuracy"]
  assert "3 seeds" in fine_tune["Seeds"]
  # The defaults of the probe are said, although the config leaves them open.
  assert "held-out 20% of the training images" in captions["linear_probe"]["Protocol"]


@pytest.mark.parametrize(
  ("by", "said"),
  [
    ("leave_one_out", "On digits: chosen by leaving one image out at a time, since most classes have fewer"),
    ("nothing", "On digits: the middle one of those listed: with one training image per class none can be"),
    ("held_out", None),
    ("given", None),
  ],
)
def test_a_penalty_that_was_chosen_otherwise_is_told(tmp_path, by, said):
  results = results_lib.load(example_study.write(tmp_path))
  rows = [row | ({"l2_chosen_by": by} if row.get("target") == "digits" else {}) for row in results.rows]
  results = dataclasses.replace(results, rows=rows)
  captions = captions_of(results)
  assert "Penalty" not in captions["fine_tune"]
  assert captions["linear_probe"].get("Penalty", "").startswith(said or "")
  assert ("Penalty" in captions["linear_probe"]) == (said is not None)


def test_curvature_says_how_it_was_measured(tmp_path):
  said = tables.curvature_sentence(results_lib.load(example_study.write(tmp_path)))
  assert "cross-entropy on 512 images" in said
  assert "15 of 15 measurements reached their tolerance" in said


@pytest.mark.parametrize(
  ("value", "text"),
  [
    ({"make": ".optim.sam", "rho": 0.05}, "sam(rho=0.05)"),
    ({"fn": ".losses.poly1"}, "poly1"),
    ({"make": "a.b", "schedule": {"make": ".optim.cosine", "warmup": 2}}, "b(schedule=cosine(warmup=2))"),
  ],
)
def test_components_read_as_calls(value, text):
  assert call(value) == text

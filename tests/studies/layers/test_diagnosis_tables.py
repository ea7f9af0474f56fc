"""The tables and figures of a diagnosis of layers, from rows whose numbers are known."""

import dataclasses
import re

from jaxtl.report.results import Results
from jaxtl.studies.layers import diagnosis_figures, diagnosis_tables


def row(layer, arm="plain", seed=0, **changes):
  found = {
    **{"kind": "layer_diagnosis", "arm": arm, "seed": seed, "layer": layer, "layer_blocks": [layer]},
    **{"layer_parameters": 12345, "weight_norm": 2.0, "gradient_norm": 0.5, "mean_loss": 0.8},
    **{"delta_loss": 0.02, "step": 0.1, "relative_step": 0.05, "kappa": 2.0, "kappa_rel": 8.0},
    **{"unbounded": False, "unimodal": True, "num_evaluations": 9, "excluded": ""},
    **{"perturb": False, "update": False, "cross_fit": False, "refine_steps": 0, "choose_by": "kappa"},
    **{"images": "cifar10/test", "seed_of_images": seed, "num_examples": 1000},
    **{"checkpoint": f"runs/{arm}", "weights": "0123456789abcdef", "compute_type": "float32"},
  }
  return found | changes


ROWS = [
  row("stem", delta_loss=0.08, update=True),
  row("block1", kappa=500.0, kappa_rel=2000.0, perturb=True),
  row("norm", layer_parameters=10, delta_loss=0.4, excluded="small"),
  row("block2", delta_loss=0.0, step=0.0, relative_step=0.0, kappa=None, kappa_rel=None),
  row("head", unbounded=True, delta_loss=0.03),
]


def results_of(rows, arms=("plain",), seeds=(0,)):
  config = {"arms": {arm: {} for arm in arms}, "seeds": list(seeds), "base": {}}
  return Results(config=config, env={}, rows=rows, curves={}, finished=frozenset())


def test_the_finding_names_the_layers_of_the_choice():
  [said] = diagnosis_tables.finding(results_of(ROWS))
  assert said == (
    "plain: stem alone can lower the loss of 0.8 by 0.08 (10.0%), the most of all that are not small; "
    "the curvature is largest in block1."
  )


def test_the_finding_over_seeds_is_of_the_means():
  rows = [
    *(row("stem", seed=seed, delta_loss=0.02, update=seed < 2) for seed in range(3)),
    *(
      row("head", seed=seed, delta_loss=gain, update=seed == 2) for seed, gain in enumerate([0.01, 0.01, 0.2])
    ),
    *(row("block1", seed=seed, kappa=500.0, perturb=True) for seed in range(3)),
  ]
  [said] = diagnosis_tables.finding(results_of(rows, seeds=(0, 1, 2)))
  assert "head alone can lower the loss of 0.8 by 0.0733" in said
  assert "that are not small (in the mean, and the choice of 1 of 3 seeds);" in said
  assert said.endswith("the curvature is largest in block1 (in the mean, and the choice of 3 of 3 seeds).")
  # Second for every seed, and so chosen by none.
  rows += [row("steady", seed=seed, delta_loss=0.1) for seed in range(3)]
  [said] = diagnosis_tables.finding(results_of(rows, seeds=(0, 1, 2)))
  assert "steady alone can lower the loss of 0.8 by 0.1" in said
  assert "the choice of 0 of 3 seeds" in said


def test_the_finding_says_where_there_is_no_choice():
  nothing = [row("stem", delta_loss=0.0)]
  assert "no layer alone lowers the loss of 0.8" in diagnosis_tables.finding(results_of(nothing))[0]
  endless = [row("stem", unbounded=True, update=True)]
  assert "no curvature can be compared" in diagnosis_tables.finding(results_of(endless))[0]
  assert diagnosis_tables.finding(results_of([])) == []


def test_a_line_for_each_layer_with_what_qualifies_it():
  [grid] = diagnosis_tables.grids(results_of(ROWS))
  lines = {line[0]: line[1:] for line in grid.rows}
  assert list(lines) == ["stem", "block1", "norm", "block2", "head"]
  assert lines["stem"] == ["12,345", "2", "0.5", "0.08", "0.05", "2", "8", "9", "update"]
  assert lines["block2"][3:7] == ["0", "0", "-", "-"]
  assert lines["head"][3] == "≥0.03"
  assert lines["norm"][-1] == "small"
  assert all(len(line) == len(grid.header) for line in grid.rows)
  assert "1000 of cifar10/test, drawn evenly over the classes with seed 0; not augmented." in grid.note
  assert "Means over seeds" not in grid.note


def test_seeds_are_averaged_and_the_choice_is_counted():
  rows = [
    *(row("stem", seed=seed, delta_loss=0.1 * (seed + 1), update=seed < 2) for seed in range(3)),
    *(row("head", seed=seed, update=seed == 2) for seed in range(3)),
  ]
  [grid] = diagnosis_tables.grids(results_of(rows, seeds=(0, 1, 2)))
  assert [line[4] for line in grid.rows] == ["0.2", "0.02"]
  assert [line[-1] for line in grid.rows] == ["update (2 of 3)", "update (1 of 3)"]
  assert "with seed 0 and 1 and 2" in grid.note
  assert grid.note.endswith("Means over seeds.")


def test_every_option_is_told():
  rows = [row("stem", cross_fit=True, refine_steps=3, kappa_hvp=2.125)]
  [grid] = diagnosis_tables.grids(results_of(rows))
  assert "the direction from one half, the losses from the other" in grid.note
  assert "3 further steps of descent" in grid.note
  assert grid.rows[0][grid.header.index("κ, by H")] == "2.125"
  text = diagnosis_tables.terminal_table(rows)
  assert re.search(r"cross_fit +True\nrefine_steps +3\nchoose_by +kappa\n", text)
  assert "2.125" in text


def test_the_terminal_has_a_line_for_each_layer():
  lines = diagnosis_tables.terminal_table(ROWS).splitlines()
  facts = dict(line.split(maxsplit=1) for line in lines[: lines.index("")])
  assert (facts["mean_loss"], facts["num_examples"], facts["images"]) == ("0.8", "1000", "cifar10/test")
  table = lines[lines.index("") + 1 :]
  assert [line.split()[0] for line in table] == ["layer", "stem", "block1", "norm", "block2", "head"]
  assert table[1].endswith("update")
  assert table[2].endswith("perturb")


def test_a_figure_for_the_room_and_one_for_the_curvature():
  room, curvature = diagnosis_figures.make_figures(results_of(ROWS))
  assert (room.name, curvature.name) == ("layers_room", "layers_curvature")
  for name in ("stem", "block1", "block2", "head"):
    assert f">{name}<" in room.svg
    assert f">{name}<" in curvature.svg
  assert room.svg.count("★") == curvature.svg.count("★") == 1
  assert "≥" in room.svg
  assert "≥" not in curvature.svg
  assert "mathdefault" not in curvature.svg
  assert diagnosis_figures.make_figures(results_of([])) == []


def test_the_star_is_where_the_choice_was_made():
  by_relative = [{**one, "choose_by": "kappa_rel"} for one in ROWS]
  for rows, there in ((ROWS, (True, False)), (by_relative, (False, True))):
    upper, lower = diagnosis_figures.curvature(results_of(rows)).svg.split('id="axes_2"')
    assert ("★" in upper, "★" in lower) == there


def test_arms_are_beside_each_other_and_crowds_of_layers_keep_their_names_apart():
  both = [*ROWS, *({**one, "arm": "sam"} for one in ROWS)]
  room, _ = diagnosis_figures.make_figures(results_of(both, arms=("plain", "sam")))
  assert room.svg.count("★") == 2
  assert ">sam<" in room.svg
  many = [row(f"layer{number}") for number in range(130)]
  room, _ = diagnosis_figures.make_figures(results_of(many))
  assert ">layer0<" in room.svg
  assert ">layer3<" in room.svg
  assert ">layer1<" not in room.svg


def test_rows_of_other_kinds_are_left_alone():
  other = [{"kind": "flatness", "arm": "plain", "seed": 0, "lambda_max": 3.0}]
  results = results_of(other)
  assert diagnosis_tables.grids(results) == []
  mixed = dataclasses.replace(results, rows=[*other, *ROWS])
  assert len(diagnosis_tables.grids(mixed)) == 1


def test_a_network_without_curvature_still_has_its_figures():
  rows = [row("stem", delta_loss=0.0, step=0.0, kappa=None, kappa_rel=None)]
  assert len(diagnosis_figures.make_figures(results_of(rows))) == 2

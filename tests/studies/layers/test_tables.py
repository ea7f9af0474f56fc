"""What a layers study says of its methods, from rows whose numbers are known."""

from jaxtl.report import findings
from jaxtl.report.results import Results
from jaxtl.report.section import Section
from jaxtl.studies.layers import tables as layers_tables


def row(method, seed, loss, scaled, arm="net"):
  return {
    **{"kind": "post_training", "arm": arm, "seed": seed, "method": method},
    **{"test_loss": loss, "scaled_loss": scaled, "test_error": 0.1, "test_ece": 0.02, "scaled_ece": 0.01},
    "kept_step": 20,
  }


def results_of(rows, seeds=(0, 1)):
  config = {"arms": {"net": {}}, "seeds": list(seeds), "base": {}}
  return Results(config, {}, rows, {}, frozenset(("net", seed) for seed in seeds))


ROWS = [
  *(row("base", 0, 0.9, 0.8), row("pof", 0, 0.7, 0.79), row("sgd", 0, 0.5, 0.7)),
  *(row("base", 1, 0.8, 0.6), row("pof", 1, 0.8, 0.58), row("sgd", 1, 0.7, 0.62)),
]


def test_methods_are_compared_with_their_own_base_and_the_lowest_is_called_chosen_on_the_test():
  first, second = layers_tables.lead(results_of(ROWS))
  assert first == (
    "net: the test loss of the base is 0.850, and 0.700 with a temperature alone. Each with its own "
    "temperature, the methods change the latter by (mean ± standard deviation over 2 seeds; below 0 is "
    "better): pof -0.0150 ± 0.0071 (better in 2 of 2); sgd -0.0400 ± 0.0849 (better in 1 of 2)."
  )
  assert second == (
    "net: the lowest of 2 methods on the test images, chosen on them (which flatters), is sgd with 0.6600, "
    "against 0.7000 of the base."
  )


def test_one_seed_has_no_spread():
  first, _ = layers_tables.lead(results_of(ROWS[:3], seeds=(0,)))
  assert "one seed, spread unknown" in first
  assert first.endswith("pof -0.0100; sgd -0.1000.")


def test_methods_of_which_the_base_is_kept_change_nothing():
  rows = [row("base", 0, 0.9, 0.8), row("pof", 0, 0.9, 0.7)]
  rows += [row(name, 0, 0.9, 0.8) | {"kept_step": 0} for name in ("sgd", "pol")]
  first, _ = layers_tables.lead(results_of(rows, seeds=(0,)))
  assert first.endswith("pof -0.1000; sgd and pol by nothing, since the base is kept.")


def test_where_nothing_is_gained_no_method_is_the_lowest():
  worse = [row("base", 0, 0.9, 0.8), row("pof", 0, 0.9, 0.8), row("sgd", 0, 0.9, 0.85)]
  *_, last = layers_tables.lead(results_of(worse, seeds=(0,)))
  assert last == "net: none of 2 methods is below the base on the test images."


def test_without_a_base_or_methods_nothing_is_said():
  assert layers_tables.lead(results_of(ROWS[:1])) == []
  assert layers_tables.lead(results_of(ROWS[1:3])) == []


def test_the_head_of_the_page_picks_no_arm_by_its_best_method():
  results = results_of(ROWS)
  section = Section(lead=layers_tables.lead(results))
  assert findings.finding(results, section) == []
  assert findings.qualifications(results, section) == []


def test_the_last_epoch_has_columns_of_its_own_and_the_caption_says_why():
  last = {"last_loss": 0.6, "last_error": 0.2, "last_scaled_loss": 0.5}
  results = results_of([row("base", 0, 0.9, 0.8), row("sgd", 0, 0.9, 0.8) | last], seeds=(0,))
  (table,) = layers_tables.make_tables(results)
  found = {c.title: c.values for c in table.columns if c.group == "After the last epoch"}
  assert found == {name: {"sgd": {0: x}} for name, x in zip(("loss", "error", "loss, own T"), last.values())}
  assert "kept or not" in dict(layers_tables.caption(results, table))["After the last epoch"]

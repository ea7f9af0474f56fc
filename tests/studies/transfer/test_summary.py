"""The table and the verdict at the end of `jaxtl finetune`, from rows with known numbers."""

from pathlib import Path

import pytest

from jaxtl.metrics import wilson_interval
from jaxtl.studies.transfer import summary


def row(accuracy, *, num_test=200, **more):
  return dict(accuracy=accuracy, loss=1 - accuracy, num_test=num_test, seconds=3.0) | more


def text(groups, monkeypatch, workdir=Path("anywhere")):
  rows = [
    dict(kind="transfer", arm=arm, protocol=protocol, seed=0, target="photos", **one)
    for (arm, protocol), found in groups.items()
    for one in found
  ]
  monkeypatch.setattr(summary, "all_rows", lambda workdir: rows)
  return summary.summary(workdir)


def test_the_best_is_named_and_so_is_what_may_be_as_good(monkeypatch):
  groups = {
    ("a", "linear_probe"): [row(0.90, l2=0.01)],
    ("a", "fine_tune"): [row(0.92, peak_rate=1e-3, selected_step=30, steps=60)],
    ("b", "linear_probe"): [row(0.60, l2=0.1)],
  }
  found = text(groups, monkeypatch)
  assert "Take a by fine-tuning: it classifies 0.920 of the test images correctly." in found
  assert "overlaps with that of a by linear probe: the difference may be chance" in found
  low, high = wilson_interval(0.92, 200)
  line = next(line for line in found.splitlines() if "rate 0.001" in line)
  assert line.split()[:3] == ["a", "fine-tuning", "0.920"]
  assert f"{low:.3f} to {high:.3f}" in line
  assert "step 30/60" in line
  assert "penalty 0.1" in found


def test_a_clear_winner_and_a_fine_tuning_below_its_probe(monkeypatch):
  groups = {("a", "linear_probe"): [row(0.95, l2=1.0)], ("a", "fine_tune"): [row(0.5, peak_rate=1.0)]}
  found = text(groups, monkeypatch)
  assert "Its interval is above all others." in found
  assert "The fine-tuning of a ends below its linear probe (0.500 after 0.950)" in found


def test_seeds_are_averaged_and_count_their_images_once(monkeypatch):
  groups = {("a", "fine_tune"): [row(0.8, peak_rate=1e-3), row(0.9, peak_rate=1e-4)]}
  found = text(groups, monkeypatch)
  low, high = wilson_interval(0.85, 200)
  assert f"0.850     {low:.3f} to {high:.3f}" in found
  assert "rate 0.0001, 0.001" in found
  assert text({}, monkeypatch) == "no result yet\n"


@pytest.mark.parametrize(("share", "count"), [(0.0, 10), (1.0, 10), (0.37, 123)])
def test_wilson_inverts_the_score_test(share, count):
  """The ends are where |share - p| is z standard errors, computed at p."""
  for end in wilson_interval(share, count):
    if 1e-9 < end < 1 - 1e-9:
      assert abs(share - end) == pytest.approx(1.959963984540054 * (end * (1 - end) / count) ** 0.5)
  assert wilson_interval(share, count)[0] <= share <= wilson_interval(share, count)[1]


def test_wilson_refuses_what_is_not_a_proportion():
  with pytest.raises(ValueError, match="share in"):
    wilson_interval(1.2, 10)
  with pytest.raises(ValueError, match="at least one image"):
    wilson_interval(0.5, 0)


def test_the_folder_of_a_fine_tuned_weight_is_printed_where_it_is_kept(monkeypatch, tmp_path):
  groups = {(arm, "fine_tune"): [row(0.8, peak_rate=1e-3)] for arm in "ab"}
  groups["a", "linear_probe"] = [row(0.7, l2=1.0)]
  kept = tmp_path / "a" / "0" / "transfer" / "photos" / "fine_tune"
  kept.mkdir(parents=True)
  lines = text(groups, monkeypatch, tmp_path).splitlines()
  assert [line for line in lines if line.startswith("weights of")] == [f"weights of a: {kept}"]

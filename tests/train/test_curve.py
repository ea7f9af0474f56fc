"""The learning curve of a training, by epoch."""

import pytest

from jaxtl.train import curve


def records(*steps):
  return [{"step": step, "train/loss": float(step), "train/rate": step / 100} for step in steps]


def test_an_epoch_is_the_mean_of_its_batches_and_the_newest_of_all_else():
  history = [*records(1, 2, 3), {"step": 3, "eval/test/top1": 0.5}, *records(4, 5, 6)]
  history.append({"step": 6, "eval/test/top1": 0.75, "train/images_per_second": 100.0})
  assert curve.by_epoch(history, steps_per_epoch=3.0) == [
    {"epoch": 1, "step": 3, "train/loss": 2.0, "train/rate": 0.03, "eval/test/top1": 0.5},
    {"epoch": 2, "step": 6, "train/loss": 5.0, "train/rate": 0.06, "eval/test/top1": 0.75},
  ]


@pytest.mark.parametrize(
  ("steps_per_epoch", "expected"),
  [
    (2.5, [1, 1, 2, 2, 2, 3]),
    (4.0, [1, 1, 1, 1, 2, 2]),
    (100.0, [1, 1, 1, 1, 1, 1]),
    (1.0, [1, 2, 3, 4, 5, 6]),
  ],
)
def test_an_epoch_ends_where_the_run_would_end_after_so_many(steps_per_epoch, expected):
  found = curve.by_epoch(records(1, 2, 3, 4, 5, 6), steps_per_epoch=steps_per_epoch)
  last = {epoch: step for step, epoch in enumerate(expected, 1)}
  assert {row["epoch"]: row["step"] for row in found} == last


def test_epochs_without_a_record_have_no_row():
  found = curve.by_epoch(records(5, 10), steps_per_epoch=2.5)
  assert [row["epoch"] for row in found] == [2, 4]


def test_a_run_without_updates_has_no_epochs():
  assert curve.by_epoch([{"step": 0, "eval/test/top1": 0.1}], steps_per_epoch=3.0) == []
  assert curve.as_csv([]) == "epoch,step\n"


def test_csv_has_a_column_for_each_metric():
  text = curve.as_csv([{"epoch": 1, "step": 3, "a": 0.1}, {"epoch": 2, "step": 6, "b": 1e-30}])
  assert text == "epoch,step,a,b\n1,3,0.1,\n2,6,,1e-30\n"

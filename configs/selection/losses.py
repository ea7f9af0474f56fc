"""Within one architecture: do scores order the weights of five losses as their measured transfer does?

Each checkpoint of `configs/pretrain/tiny_imagenet.py` is an arm, and the seeds of a loss are one cluster.
The transfer is that of the finished pre-training run, so that nothing is trained here:

jaxtl run configs/pretrain/tiny_imagenet.py --data-dir DATA
jaxtl run configs/selection/losses.py --data-dir DATA
"""

from ml_collections import ConfigDict

RUN = "runs/pretrain/tiny_imagenet"
LOSSES = ("cross_entropy", "label_smoothing", "weight_decay", "smoothed_hinge", "sam")
SEEDS = (0, 1)


def _parquet(name, split, **columns):
  source = dict(make=".data.from_parquet", path=f"{name}/{split}.parquet", **columns)
  return dict(source=source, batch_size=200)


def _sheets(name, split):
  return dict(source=dict(make=".data.from_sheets", folder=name, split=split), batch_size=200)


def _targets():
  coarse = dict(label_column="coarse_label", classes="coarse_classes.json")
  return dict(
    caltech101_sub=dict(train=_parquet("caltech101_sub", "train"), test=_parquet("caltech101_sub", "test")),
    grocery=dict(train=_parquet("grocery", "train", **coarse), test=_parquet("grocery", "test", **coarse)),
    clothing=dict(train=_parquet("clothing", "train"), test=_parquet("clothing", "test")),
    dtd10=dict(train=_parquet("dtd10", "train"), test=_parquet("dtd10", "test")),
    rsscn7_sub=dict(train=_parquet("rsscn7_sub", "train"), test=_parquet("rsscn7_sub", "test")),
    gtsrb32=dict(train=_sheets("gtsrb32", "train"), test=_sheets("gtsrb32", "test")),
  )


def get_config():
  arms = {
    f"{loss}_{seed}": dict(start=f"{RUN}/{loss}/{seed}", cluster=loss) for loss in LOSSES for seed in SEEDS
  }
  return ConfigDict(
    dict(
      study=".studies.selection.rows",
      title="Scores of five losses against their transfer to six data sets",
      seeds=(0,),
      base=dict(
        start=f"{RUN}/cross_entropy/0",
        transfer=dict(targets=_targets()),
        measured_from=(RUN,),
      ),
      arms=ConfigDict(arms, sort_keys=False),
    )
  )

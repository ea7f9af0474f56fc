"""The whole study in minutes, with nothing to download.

Pre-trains a small ResNet on glyphs that are drawn on the fly, with five losses, and transfers each weight to
a few real images in installed packages: 100 handwritten digits (scikit-learn), 90 patches of photographs
(scikit-image), in grey, since colour alone tells the photographs apart.
"""

from ml_collections import ConfigDict

SIZE = 24  # pixels a side; 32 take twice as long


def _data(transforms, batch_size=128, **source):
  return dict(source=source, transforms=transforms, batch_size=batch_size)


def get_config():
  normalize = dict(fn=".data.normalize")
  plain = [normalize]
  cropped = [dict(fn=".data.pad_crop", size=SIZE, padding=2), normalize]
  glyphs = dict(make=".data.glyphs", size=SIZE, polarity="light_on_dark")
  digits, patches = dict(make=".data.digits"), dict(make=".data.photo_patches")
  few_digits = dict(make=".data.subset", source=dict(digits, split="train"), num_examples=100)
  shrink, gray = dict(fn=".data.resize", size=SIZE), dict(fn=".data.to_gray")
  targets = dict(
    digits=dict(
      train=_data([shrink, *cropped], **few_digits, batch_size=32),
      test=_data([shrink, *plain], **digits, split="test", batch_size=256),
    ),
    photo_patches=dict(
      train=_data([gray, *cropped], **patches, size=SIZE, split="train", num_per_class=10, batch_size=32),
      test=_data([gray, *plain], **patches, size=SIZE, split="test", num_per_class=100, batch_size=256),
    ),
  )
  return ConfigDict(
    dict(
      study=".studies.pretrain.rows",
      title="Quickstart: which loss makes the best weights?",
      notes=[
        "Pre-training data are drawn: 62 glyphs in the fonts that matplotlib ships.",
        "Transfer data are real and few: 100 of scikit-learn's digits, 90 grey patches of photographs.",
        "This run is minutes long. It shows that everything works; it does not show which loss is best.",
      ],
      seeds=(0, 1),
      base=dict(
        model=dict(make=".models.resnet8", width=8),
        task=dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy")),
        data=_data(plain, **glyphs, split="train", num_examples=6144, batch_size=32),
        evaluation=dict(test=_data(plain, **glyphs, split="test", num_examples=1024, batch_size=256)),
        optimizer=dict(
          make=".optim.sgd",
          peak_rate=0.2,
          schedule=dict(make=".optim.cosine", warmup_epochs=0.5),
          nesterov=True,
        ),
        epochs=4.0,
        flatness=dict(
          data=_data(plain, **glyphs, split="train", num_examples=6144),
          num_examples=256,
          num_iters=20,
          tolerance=0.05,
        ),
        transfer=dict(
          targets=targets,
          linear_probe=dict(),
          fine_tune=dict(
            task=dict(
              make=".tasks.classification", frozen_stats=True, loss=dict(fn=".losses.softmax_cross_entropy")
            ),
            optimizer=dict(
              make=".optim.adam", peak_rate=3e-3, schedule=dict(make=".optim.cosine", warmup_epochs=1.0)
            ),
            epochs=16.0,
            evaluate_every_epochs=4.0,
            head="probe",
          ),
        ),
      ),
      arms=ConfigDict(
        dict(
          cross_entropy=dict(),
          label_smoothing=dict(task=dict(loss=dict(fn=".losses.softmax_cross_entropy", label_smoothing=0.1))),
          weight_decay=dict(optimizer=dict(weight_decay=5e-4)),
          smoothed_hinge=dict(
            task=dict(loss=dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0)),
            optimizer=dict(peak_rate=0.05),
          ),
          sam=dict(gradient=dict(make=".optim.sam", rho=0.05)),
          # The control has no statistics to freeze. Its rate is the best of 3e-3, 1e-2 and 3e-2 with a fresh
          # head, on average over both targets (seed 0). A head from the probe was below it at the first two.
          from_scratch=dict(
            epochs=0.0,
            flatness=None,
            transfer=dict(
              fine_tune=dict(task=dict(frozen_stats=False), optimizer=dict(peak_rate=1e-2), head="fresh")
            ),
          ),
        ),
        sort_keys=False,  # the table's order
      ),
    )
  )

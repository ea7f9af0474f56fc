"""What can be known of a list of transforms is known before an image is read."""

from functools import partial

import pytest

from jaxtl import data
from jaxtl.data.transforms.declared import check_transforms, declares, gives
from jaxtl.errors import ConfigError

MIX = [data.cutmix, partial(data.mixup, alpha=1.0)]


@pytest.mark.parametrize(
  ("transform", "said"),
  [
    (partial(data.rand_augment, magnitude=11.0), "rand_augment magnitude is 11; expected 0 to 10"),
    (partial(data.random_scale, low=2.0, high=0.5), "random_scale low is 2 and high is 0.5"),
    (partial(data.random_scale, low=0.0), "expected 0 < low"),
    (partial(data.random_crop, size=0), "random_crop size is 0; expected pixels"),
    (partial(data.random_crop, size=8, fill=(1.0, 2.0)), r"random_crop fill is \[1.0, 2.0\]; .* or three"),
    (partial(data.rotate, degrees=3.0, probability=1.5), "rotate probability is 1.5; expected 0 to 1"),
    (partial(data.rotate, degrees=3.0, fill=(1.0,)), "rotate fill is"),
    (partial(data.gaussian_blur, kernel_size=4), "kernel_size is 4; expected an odd number"),
    (partial(data.gaussian_blur, sigma=0.0), "sigma is 0; expected pixels above 0"),
    (partial(data.gaussian_blur, probability=-0.1), "gaussian_blur probability is -0.1"),
    (partial(data.aug_mix, severity=0), "aug_mix severity is 0; expected 1 to 10"),
    (partial(data.aug_mix, severity=11), "severity is 11"),
    (partial(data.aug_mix, width=0), "aug_mix width is 0; expected a positive integer"),
    (partial(data.aug_mix, depth=0), "aug_mix depth is 0"),
    (partial(data.aug_mix, alpha=0.0), "aug_mix alpha is 0; expected a number above 0"),
    (partial(data.aug_mix, variant="timm"), "aug_mix has no variant 'timm'; expected one of torchvision,"),
    (partial(data.aug_mix_jsd, severity=-1), "severity is -1"),
    (partial(data.trivial_augment, num_bins=1), "num_bins is 1; expected at least 2"),
    (partial(data.trivial_augment, fill=(0.0,) * 4), "trivial_augment fill is"),
    (partial(data.auto_augment, policy="svhn"), "no policy 'svhn'; expected 'imagenet' or 'cifar10'"),
    (partial(data.auto_augment, fill=()), "auto_augment fill is"),
  ],
)
def test_settings_out_of_range_are_one_line(transform, said):
  with pytest.raises(ConfigError, match=said) as raised:
    check_transforms([transform])
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
  ("transform", "said"),
  [
    (partial(data.mixup, alpha=0.0), "mixup alpha is 0; expected a number above 0"),
    (partial(data.cutmix, alpha=-1.0), "cutmix alpha is -1"),
    (partial(data.timm_mix, mixup_alpha=-1.0), r"mixup_alpha is -1; expected 0 \(off\) or more"),
    (partial(data.timm_mix, mixup_alpha=0.0), "mixes nothing; leave it out"),
    (partial(data.timm_mix, mode="elem"), "no mode 'elem'; expected one of batch, pair, element"),
    (partial(data.timm_mix, probability=2.0), "timm_mix probability is 2"),
    (partial(data.timm_mix, switch_probability=-1.0), "switch_probability is -1"),
    (partial(data.timm_mix, smoothing=1.5), "smoothing is 1.5"),
    (partial(data.timm_mix, minmax=(0.8, 0.2)), r"minmax is \[0.8, 0.2\]; expected the smallest"),
    (partial(data.timm_mix, minmax=(0.5,)), "minmax is"),
    (partial(data.one_of_batch, transforms=[]), "transforms is empty"),
    (partial(data.one_of_batch, transforms=MIX, probabilities=[1.0]), "2 transforms and 1 probabilities"),
    (partial(data.one_of_batch, transforms=MIX, probabilities=[0.5, 0.6]), "with the sum 1"),
    (partial(data.one_of_batch, transforms=MIX, probabilities=[-0.5, 1.5]), "expected numbers from 0 to 1"),
    (partial(data.one_of_batch, transforms=[*MIX, lambda batch: batch]), "of which only some mix labels"),
    (partial(data.one_of_batch, transforms=[partial(data.mixup, alpha=0.0)]), "mixup alpha is 0"),
  ],
)
def test_batch_settings_out_of_range_are_one_line(transform, said):
  with pytest.raises(ConfigError, match=said) as raised:
    check_transforms([], [transform])
  assert "\n" not in str(raised.value)


def test_a_transform_after_the_views_would_change_the_image_alone():
  chain = [partial(data.random_resized_crop, size=8), data.flip_left_right, data.aug_mix_jsd, data.normalize]
  assert check_transforms(chain) == {data.VIEWS}
  with pytest.raises(ConfigError, match=r"flip_left_right comes after aug_mix_jsd .* only normalize"):
    check_transforms([data.aug_mix_jsd, data.flip_left_right])
  with pytest.raises(ConfigError, match="aug_mix_jsd comes after aug_mix_jsd"):
    check_transforms([data.aug_mix_jsd, data.normalize, data.aug_mix_jsd])


@pytest.mark.parametrize("mix", [data.mixup, partial(data.one_of_batch, transforms=MIX), data.timm_mix])
def test_labels_are_mixed_once_and_not_next_to_views(mix):
  assert check_transforms([data.normalize], [mix]) == {data.MIXED_LABELS}
  with pytest.raises(ConfigError, match=r"would mix the labels twice; .* one_of_batch"):
    check_transforms([], [data.cutmix, mix])
  with pytest.raises(ConfigError, match="mixes images, but not the views of aug_mix_jsd"):
    check_transforms([data.aug_mix_jsd], [mix])


def test_pairs_need_an_even_number_of_rows():
  for mix in (data.timm_mix, partial(data.one_of_batch, transforms=[data.timm_mix])):
    check_transforms([], [mix], rows=6)
    check_transforms([], [mix])
    with pytest.raises(ConfigError, match=r"timm_mix pairs the rows .* gets 5 rows; expected an even number"):
      check_transforms([], [mix], rows=5)
  check_transforms([], [data.mixup], rows=5)  # its last row stays as it is


def test_own_transforms_declare_nothing_or_what_they_like():
  def plain(example):
    return example

  @declares(gives=(data.VIEWS,))
  def views(example, seed, *, count: int = 2):
    return example

  assert check_transforms([plain, partial(views, count=3), data.normalize]) == {data.VIEWS}
  assert gives(plain) == set()
  with pytest.raises(ConfigError, match="plain comes after views"):
    check_transforms([views, plain])

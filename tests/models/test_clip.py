import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jaxtl import models, tree
from jaxtl.errors import ConfigError
from jaxtl.models.transformer import ACTIVATIONS

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
SIZES = dict(width=12, depth=3, num_heads=3, embed_dim=5)


def text(**options):
  return models.clip_text_b(**{**SIZES, "vocabulary": 20, "context": 7, **options})


@pytest.fixture
def tokens():
  return np.array([[18, 3, 4, 19, 0, 0, 0], [18, 19, 0, 0, 0, 0, 0], [18, 5, 4, 3, 2, 1, 19]], np.int32)


@pytest.fixture
def tower(filled, tokens):
  def variables(model):
    shapes = jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct(tokens.shape, jnp.int32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32) / 3, shapes)

  return variables


def count(model, shape, dtype=jnp.float32):
  return tree.size(jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct(shape, dtype))[0])


@pytest.mark.parametrize(
  ("size", "text_size", "total"),
  [("b32", "b", 151_277_313), ("b16", "b", 149_620_737), ("l14", "l", 427_616_513)],
)
def test_both_towers_count_as_openai_s(size, text_size, total):
  images = count(getattr(models, f"clip_vit_{size}")(num_classes=0), (1, 224, 224, 3))
  texts = count(getattr(models, f"clip_text_{text_size}")(), (1, 77), jnp.int32)
  assert images + texts == total


def test_a_token_does_not_see_those_behind_it(tower, tokens):
  model = text()
  params, _ = tower(model)
  later = np.where(tokens == 0, 7, tokens)  # behind the end of the text
  a, b = (model.apply(params, {}, ids)[0]["pooled"] for ids in (tokens, later))
  np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  earlier = np.where(tokens == 18, 7, tokens)
  assert np.abs(model.apply(params, {}, earlier)[0]["pooled"] - a).min() > 1e-4


def test_a_shorter_context_gives_the_same_embedding(tower, tokens):
  model = text()
  params, _ = tower(model)
  whole, short = (model.apply(params, {}, tokens[:2, :length])[0]["pooled"] for length in (7, 4))
  np.testing.assert_allclose(short, whole, rtol=1e-5, atol=1e-6)


def test_the_scale_is_the_exponential_of_the_parameter(tower, tokens):
  model = text()
  params, _ = tower(model)
  params["projection"]["log_scale"] = np.float32(np.log(100))
  np.testing.assert_allclose(model.apply(params, {}, tokens)[0]["scale"], 100, rtol=1e-5)


def test_remat_of_a_text_tower_changes_the_program_and_not_the_gradient(tower, tokens):
  def gradient(remat):
    return jax.grad(lambda params: jnp.sum(text(remat=remat).apply(params, {}, tokens)[0]["pooled"] ** 2))

  params, _ = tower(text())
  a, b = (jax.jit(gradient(remat))(params) for remat in (False, True))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), a, b)
  programs = [str(jax.make_jaxpr(gradient(remat))(params)) for remat in (False, True)]
  assert "remat" not in programs[0]
  assert "remat" in programs[1]


def test_text_towers_take_tokens_and_say_so():
  with pytest.raises(ConfigError, match=r"clip_text_b takes token ids \[B, T\]; got an array of shape"):
    text().init(KEY, np.zeros((2, 8, 8, 3), np.int32))
  with pytest.raises(ConfigError, match="width=12 is not divisible by num_heads=5"):
    text(num_heads=5)
  with pytest.raises(ConfigError, match="vocabulary must be an integer of at least 1; got 0"):
    text(vocabulary=0)
  with pytest.raises(ConfigError, match="activation must be 'gelu' or 'gelu_tanh' or 'quick_gelu'"):
    text(activation="relu")
  with pytest.raises(ConfigError, match="norm_epsilon must be above 0; got 0"):
    text(norm_epsilon=0)


def test_similarity_is_the_scaled_cosine():
  rng = np.random.default_rng(0)
  image, words = rng.standard_normal((3, 5)), rng.standard_normal((4, 5))
  norms = np.linalg.norm(image, axis=1)[:, None] * np.linalg.norm(words, axis=1)[None]
  ours = models.similarity(jnp.asarray(image), jnp.asarray(words), scale=100.0)
  np.testing.assert_allclose(ours, 100 * image @ words.T / norms, rtol=1e-4, atol=1e-4)


def test_zero_shot_head_is_the_similarity_to_the_class_names(filled, images):
  model = models.clip_vit_b32(num_classes=4, image_size=8, patch_size=4, head="scaled_cosine", **SIZES)
  params, _ = filled(model, (1, 8, 8, 3))
  words = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
  params["head"] = {"kernel": words.T, "log_scale": np.float32(np.log(50))}
  features, _ = model.apply(params, {}, images(2, 8, 8, 3))
  expected = models.similarity(features["pooled"], words, scale=50.0)
  np.testing.assert_allclose(features["logits"], expected, rtol=1e-4, atol=1e-4)


def test_without_classes_there_is_only_the_embedding(filled, images):
  model = models.clip_vit_b32(num_classes=0, image_size=8, patch_size=4, **SIZES)
  features, _ = model.apply(*filled(model, (1, 8, 8, 3)), images(2, 8, 8, 3))
  assert "logits" not in features
  assert features["pooled"].shape == (2, 5)


def test_activations_are_those_of_their_names():
  x = np.linspace(-4, 4, 101)
  exact = 0.5 * x * (1 + erf(x / np.sqrt(2)))
  np.testing.assert_allclose(ACTIVATIONS["gelu"](x), exact, atol=1e-6)
  tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
  np.testing.assert_allclose(ACTIVATIONS["gelu_tanh"](x), tanh, atol=1e-6)
  np.testing.assert_allclose(ACTIVATIONS["quick_gelu"](x), x / (1 + np.exp(-1.702 * x)), atol=1e-6)
  assert 3e-4 < np.abs(tanh - exact).max() < 5e-4

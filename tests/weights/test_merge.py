"""Merges: the identities among them, what each keeps, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import tree, weights
from jaxtl.errors import ConfigError, InputError, NonFiniteError

KEY = jax.random.key(0)


def make_params(seed=0, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731
  return {"conv": {"kernel": draw(3, 3, 2, 4), "bias": draw(4)}, "steps": jnp.asarray(seed, jnp.int32)}


BEFORE, MODELS = make_params(9), [make_params(seed) for seed in range(4)]
VECTORS = [weights.task_vector(BEFORE, model) for model in MODELS]


def assert_close(a, b, *, rtol=1e-5, atol=1e-6):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def row(*entries):
  return {"a": jnp.asarray(entries[:2], jnp.float32), "b": jnp.asarray(entries[2:], jnp.float32)}


def entries(vector):
  return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(vector)])


def test_the_curve_runs_from_one_model_to_the_other():
  curve = dict(weights.wise_ft(BEFORE, MODELS[0]))
  np.testing.assert_allclose(list(curve), np.arange(11) / 10)
  assert_equal(curve[0.0], BEFORE)
  assert_equal(curve[1.0]["conv"], MODELS[0]["conv"])
  assert_equal(curve[0.5], weights.interpolate(BEFORE, MODELS[0], 0.5))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_uniform_soup_is_the_mean_in_the_types_of_the_models(dtype):
  models = [make_params(seed, dtype) for seed in range(3)]
  found = weights.uniform_soup(models)
  assert jax.tree.map(jnp.dtype, found) == jax.tree.map(jnp.dtype, models[0])
  exact = np.mean([np.asarray(m["conv"]["kernel"], np.float32) for m in models], axis=0)
  np.testing.assert_allclose(np.float32(found["conv"]["kernel"]), exact, rtol=5e-3, atol=1e-6)
  assert int(found["steps"]) == 0


def test_the_soup_of_one_model_is_the_model():
  assert_equal(weights.uniform_soup(MODELS[1:2]), MODELS[1])


def test_addition_with_one_nth_each_is_the_uniform_soup():
  found = weights.task_arithmetic(BEFORE, VECTORS, [0.25] * 4)
  assert_close(found["conv"], weights.uniform_soup(MODELS)["conv"])
  assert int(found["steps"]) == 9


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_addition_of_one_vector_is_interpolation(alpha):
  found = weights.task_arithmetic(BEFORE, VECTORS[:1], [alpha])
  assert_close(found, weights.interpolate(BEFORE, MODELS[0], alpha))


def test_negation_undoes_addition():
  there = weights.task_arithmetic(BEFORE, VECTORS[:1], [0.7])
  assert_close(weights.task_arithmetic(there, VECTORS[:1], [-0.7]), BEFORE)
  mirrored = weights.task_arithmetic(BEFORE, VECTORS[:1], [-1.0])
  assert_close(weights.uniform_soup([MODELS[0], mirrored])["conv"], BEFORE["conv"])


def test_an_analogy_of_a_pair_with_itself_is_its_other_half():
  a, b, c, _ = VECTORS
  assert_close(weights.analogy(a, b, a), b)
  assert_close(weights.analogy(a, a, c), c)
  expected = tree.add(tree.sub(b, a), c)
  assert_close(weights.analogy(a, b, c), expected)


def test_task_vectors_of_narrow_weights_are_wide():
  vector = weights.task_vector({"w": jnp.ones(1, jnp.bfloat16)}, {"w": jnp.full(1, 1e-3, jnp.bfloat16)})
  assert vector["w"].dtype == jnp.float32
  np.testing.assert_allclose(vector["w"], np.float32(jnp.bfloat16(1e-3)) - 1, rtol=1e-7)
  merged = weights.task_arithmetic({"w": jnp.ones(1, jnp.bfloat16)}, [vector], [1.0])
  assert merged["w"].dtype == jnp.bfloat16


def test_ties_with_everything_kept_and_one_task_is_the_identity():
  assert_equal(weights.ties(VECTORS[:1], density=1.0), VECTORS[0])


def test_ties_keeps_exactly_its_part():
  vector = {"w": jnp.asarray(np.random.default_rng(0).permutation(10) + 1.0, jnp.float32)}
  found = entries(weights.ties([vector], density=0.2))
  assert sorted(found[found != 0]) == [9, 10]


@pytest.mark.parametrize(("density", "kept"), [(0.01, 1), (0.5, 3), (0.7, 4), (1.0, 6)])
def test_ties_among_equal_magnitudes_keeps_the_first_over_all_leaves(density, kept):
  found = entries(weights.ties([row(1, -1, 1, -1, 1, -1)], density=density))
  np.testing.assert_array_equal(found, [1, -1, 1, -1, 1, -1][:kept] + [0] * (6 - kept))


def test_ties_by_hand():
  # Trimmed to 3 of 6 they sum to [4, 2, -5, 0, 0, -0.9]; the 1 of the third entry does not agree.
  vectors = [row(3, 2, 1, -0.5, 0.1, 0), row(1, 0.1, -6, 0.2, 0, -0.9)]
  np.testing.assert_allclose(entries(weights.ties(vectors, density=0.5)), [2, 2, -6, 0, 0, -0.9])
  np.testing.assert_allclose(
    entries(weights.ties(vectors, density=0.5, aggregate="sum")), [4, 2, -6, 0, 0, -0.9]
  )


def test_ties_breaks_a_draw_by_the_majority_of_all_entries():
  vectors = [row(1, 2, 3, 4), row(-1, 2, 3, -9)]
  np.testing.assert_allclose(entries(weights.ties(vectors, density=1.0)), [1, 2, 3, -9])
  flipped = [tree.scale(-1.0, vector) for vector in vectors]
  np.testing.assert_allclose(entries(weights.ties(flipped, density=1.0)), [-1, -2, -3, 9])


@pytest.mark.parametrize("seed", range(4))
def test_ties_is_its_definition_entry_by_entry(seed):
  rng = np.random.default_rng(seed)
  rows = rng.integers(-4, 5, (3, 30)).astype(np.float32)  # with many equal magnitudes
  found = entries(weights.ties([row(*r) for r in rows], density=0.4))
  kept = np.zeros_like(rows)
  for r, k in zip(rows, kept, strict=True):
    largest = np.argsort(-np.abs(r), kind="stable")[:12]
    k[largest] = r[largest]
  majority = 1 if np.sign(kept.sum(axis=0)).sum() >= 0 else -1
  for column, value in zip(kept.T, found, strict=True):
    sign = np.sign(column.sum()) or majority
    agreeing = [x for x in column if np.sign(x) == sign]
    np.testing.assert_allclose(value, np.mean(agreeing) if agreeing else 0, rtol=1e-6)


def test_ties_does_not_depend_on_the_order_of_tasks():
  assert_close(weights.ties(VECTORS), weights.ties(VECTORS[::-1]))


def test_dare_without_dropping_is_the_identity_and_with_nothing_left_is_zero():
  assert_equal(weights.dare(KEY, VECTORS[0], drop=0.0), VECTORS[0])
  assert_equal(weights.dare(KEY, VECTORS[0], drop=1.0), tree.zeros_like(VECTORS[0]))


@pytest.mark.parametrize("drop", [0.5, 0.9])
def test_dare_is_the_task_vector_in_the_mean(drop):
  vector = row(*np.random.default_rng(1).standard_normal(50))
  draws = jax.vmap(lambda key: thin(key, vector, drop))(jax.random.split(KEY, 4000))
  found, tau = np.asarray(draws), entries(vector)
  error = np.abs(tau) * np.sqrt(drop / (1 - drop) / 4000)
  assert np.all(np.abs(found.mean(axis=0) - tau) < 5 * error)
  np.testing.assert_allclose(np.mean(found == 0), drop, atol=0.01)
  np.testing.assert_allclose(
    found[found != 0], np.broadcast_to(tau / (1 - drop), found.shape)[found != 0], rtol=1e-5
  )


def thin(key, vector, drop):
  return jnp.concatenate(jax.tree.leaves(weights.dare(key, vector, drop=drop)))


def test_equal_fishers_give_the_mean():
  fishers = [tree.scale(3.0, jax.tree.map(jnp.ones_like, MODELS[0]))] * 4
  found = weights.fisher_average(MODELS, fishers)
  assert_close(found, weights.uniform_soup(MODELS))
  zeros = [tree.zeros_like(MODELS[0])] * 4  # at the floor
  assert_close(weights.fisher_average(MODELS, zeros), weights.uniform_soup(MODELS))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_two_equal_fishers_with_coefficients_give_interpolation(alpha):
  fishers = [jax.tree.map(lambda x: jnp.abs(x) + 1, MODELS[2])] * 2
  found = weights.fisher_average(MODELS[:2], fishers, coefficients=[1 - alpha, alpha])
  assert_close(found, weights.interpolate(*MODELS[:2], alpha))


def test_the_fisher_average_is_the_minimum_of_the_summed_parabolas():
  fishers = [jax.tree.map(lambda x: x**2, make_params(seed + 20)) for seed in range(4)]
  found = weights.fisher_average(MODELS, fishers)

  def loss(kernel):
    return sum(
      jnp.sum(f["conv"]["kernel"] * (kernel - m["conv"]["kernel"]) ** 2) for f, m in zip(fishers, MODELS)
    )

  np.testing.assert_allclose(jax.grad(loss)(found["conv"]["kernel"]), 0, atol=2e-5)


def test_huge_fishers_do_not_overflow():
  found = weights.fisher_average([row(1e3, 1, 1), row(0, 1, 1)], [row(1e38, 1, 1), row(1, 1, 1)])
  np.testing.assert_allclose(entries(found), [1e3, 1, 1], rtol=1e-6)


def accuracy(target):
  return lambda params: (
    -float(sum(jnp.sum((x - y) ** 2) for x, y in zip(*map(jax.tree.leaves, (params, target)))))
  )


@pytest.mark.parametrize("seed", range(5))
def test_a_greedy_soup_is_never_worse_than_the_best_model_and_keeps_no_order(seed):
  rng = np.random.default_rng(seed)
  models = [row(*rng.standard_normal(6)) for _ in range(6)]
  score = accuracy(row(*np.zeros(6)))
  found = weights.greedy_soup(models, score)
  assert found.score >= max(found.single_scores)
  assert found.score == score(found.params)
  assert found.single_scores == tuple(score(model) for model in models)
  assert_close(found.params, weights.uniform_soup([models[member] for member in found.members]))
  order = rng.permutation(6)
  again = weights.greedy_soup([models[i] for i in order], score)
  assert_equal(again.params, found.params)
  assert tuple(int(order[member]) for member in again.members) == found.members


def test_a_model_that_changes_nothing_is_not_added():
  found = weights.greedy_soup([row(1, 2, 3), row(1, 2, 3)], lambda params: 0.5)
  assert found.members == (0,)
  assert found.score == 0.5


def other(model):
  return model | {"neck": jnp.ones(1)}


def broken(model):
  return tree.replace(model, {"conv/bias": jnp.array([0, jnp.nan, 0, 0])})


ONES = jax.tree.map(jnp.ones_like, BEFORE)


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (lambda: weights.uniform_soup([]), ConfigError, "no models"),
    (lambda: weights.uniform_soup([BEFORE, other(BEFORE)]), InputError, "neck is only in model 1"),
    (
      lambda: weights.uniform_soup([BEFORE, broken(BEFORE)]),
      InputError,
      "conv/bias of model 1 is not finite",
    ),
    (lambda: weights.greedy_soup([], lambda p: 0.0), ConfigError, "no models"),
    (lambda: weights.greedy_soup(MODELS, lambda p: np.nan), NonFiniteError, "score of model 0 is nan"),
    (lambda: weights.wise_ft(BEFORE, BEFORE, alphas=[]), ConfigError, "alphas is empty"),
    (
      lambda: weights.wise_ft(BEFORE, BEFORE, alphas=[0.5, 2.0]),
      ConfigError,
      r"alphas has 2, outside \[0, 1\]",
    ),
    (lambda: weights.task_vector(BEFORE, other(BEFORE)), InputError, "neck is only in those after it"),
    (lambda: weights.task_vector(broken(BEFORE), BEFORE), InputError, "conv/bias of the weights before"),
    (lambda: weights.task_arithmetic(BEFORE, [], []), ConfigError, "no task vectors"),
    (
      lambda: weights.task_arithmetic(BEFORE, VECTORS, [1.0]),
      ConfigError,
      "1 coefficients for 4 task vectors",
    ),
    (lambda: weights.task_arithmetic(BEFORE, VECTORS[:1], [np.inf]), ConfigError, "write finite numbers"),
    (
      lambda: weights.task_arithmetic(BEFORE, [other(BEFORE)], [1.0]),
      InputError,
      "neck is only in task vector 0",
    ),
    (
      lambda: weights.task_arithmetic(BEFORE, [broken(BEFORE)], [1.0]),
      InputError,
      "conv/bias of task vector 0",
    ),
    (lambda: weights.ties([]), ConfigError, "no task vectors"),
    (lambda: weights.ties(VECTORS, density=0.0), ConfigError, "density is 0.0"),
    (lambda: weights.ties(VECTORS, density=1.5), ConfigError, "density is 1.5"),
    (lambda: weights.ties(VECTORS, aggregate="max"), ConfigError, "'mean' or 'sum'"),
    (lambda: weights.ties([{"n": jnp.arange(3)}]), InputError, "no floating entries"),
    (lambda: weights.ties([VECTORS[0], other(VECTORS[1])]), InputError, "neck is only in task vector 1"),
    (lambda: weights.dare(KEY, VECTORS[0], drop=1.1), ConfigError, "drop is 1.1"),
    (lambda: weights.dare(KEY, broken(BEFORE)), InputError, "conv/bias of the task vector"),
    (lambda: weights.fisher_average(MODELS, [ONES]), ConfigError, "1 Fisher diagonals for 4 models"),
    (lambda: weights.fisher_average([], []), ConfigError, "no models"),
    (
      lambda: weights.fisher_average([BEFORE], [tree.scale(-1, ONES)]),
      InputError,
      "Fisher diagonal 0 is negative",
    ),
    (lambda: weights.fisher_average([BEFORE], [ONES], coefficients=[0.0]), ConfigError, "not all 0"),
    (
      lambda: weights.fisher_average([BEFORE], [ONES], coefficients=[1, 2]),
      ConfigError,
      "2 coefficients for 1",
    ),
    (lambda: weights.fisher_average([BEFORE], [ONES], floor=0.0), ConfigError, "floor is 0.0"),
    (lambda: weights.fisher_average([BEFORE], [broken(ONES)]), InputError, "conv/bias of Fisher diagonal 0"),
  ],
)
def test_bad_input_is_one_line(call, error, message):
  with pytest.raises(error, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)

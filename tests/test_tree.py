import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import tree
from jaxtl.errors import ConfigError

A = {"x": jnp.array([1.0, 2.0]), "y": {"z": jnp.array([[3.0]])}}
B = {"x": jnp.array([0.5, -1.0]), "y": {"z": jnp.array([[4.0]])}}


def flat(a):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(a)])


def test_arithmetic_is_that_of_the_flat_vectors():
  np.testing.assert_allclose(flat(tree.add(A, B)), flat(A) + flat(B))
  np.testing.assert_allclose(flat(tree.sub(A, B)), flat(A) - flat(B))
  np.testing.assert_allclose(flat(tree.mul(A, B)), flat(A) * flat(B))
  np.testing.assert_allclose(flat(tree.scale(3.0, A)), 3 * flat(A))
  assert float(tree.dot(A, B)) == pytest.approx(flat(A) @ flat(B))
  assert float(tree.norm(A)) == pytest.approx(np.linalg.norm(flat(A)))
  assert tree.size(A) == 3


def test_lerp_is_bit_exact_at_both_ends():
  rng = np.random.default_rng(0)
  a, b = ({"w": jnp.asarray(rng.normal(size=1000), jnp.float32)} for _ in range(2))
  np.testing.assert_array_equal(tree.lerp(a, b, 0.0)["w"], a["w"])
  np.testing.assert_array_equal(tree.lerp(a, b, 1.0)["w"], b["w"])


def test_norms_of_half_precision_trees_are_summed_wide():
  a = {"w": jnp.full(4096, 1.0, jnp.bfloat16)}
  assert float(tree.norm(a)) == 64.0
  assert tree.scale(0.5, a)["w"].dtype == jnp.bfloat16


def test_random_like_draws_each_leaf_with_its_own_key():
  draws = tree.random_like(jax.random.key(0), {"a": jnp.zeros(100), "b": jnp.zeros(100)})
  assert abs(np.corrcoef(draws["a"], draws["b"])[0, 1]) < 0.5
  signs = tree.random_like(jax.random.key(0), A, sampler=jax.random.rademacher)
  assert set(np.abs(flat(signs))) == {1.0}


def test_paths_name_leaves():
  assert tree.paths(A) == ["x", "y/z"]


def test_label_takes_the_first_rule_that_matches():
  assert tree.label(A, [("z$", 1), ("", 2)]) == {"x": 2, "y": {"z": 1}}


@pytest.mark.parametrize(
  ("rules", "message"),
  [([("z$", 1)], "no rule matches the parameter 'x'"), ([("", 1), ("z$", 2)], "the rule 'z\\$' matches no")],
)
def test_label_refuses_gaps_and_idle_rules(rules, message):
  with pytest.raises(ConfigError, match=message):
    tree.label(A, rules)


@pytest.mark.parametrize("use", [lambda p: tree.matches(A, p), lambda p: tree.label(A, [("", 0), (p, 1)])])
@pytest.mark.parametrize(("pattern", "problem"), [("x(", "unterminated"), ("*", "nothing to repeat")])
def test_a_broken_regex_is_named_with_its_problem(use, pattern, problem):
  with pytest.raises(ConfigError, match=problem) as error:
    use(pattern)
  assert repr(pattern) in str(error.value)
  assert "\n" not in str(error.value)


def test_matches_refuses_a_regex_that_finds_nothing():
  assert tree.matches(A, None) == {"x": True, "y": {"z": True}}
  assert tree.matches(A, "^y") == {"x": False, "y": {"z": True}}
  with pytest.raises(ConfigError, match="matches no parameter"):
    tree.matches(A, "nope")


def test_of_a_part_of_a_tree_patterns_may_find_nothing():
  assert tree.matches(A, "elsewhere", needed=False) == {"x": False, "y": {"z": False}}
  assert tree.label(A, [("elsewhere", 1), ("", 2)], needed=False) == {"x": 2, "y": {"z": 2}}
  for call in (lambda: tree.matches(A, "elsewhere"), lambda: tree.label(A, [("elsewhere", 1), ("", 2)])):
    with pytest.raises(ConfigError, match="matches no parameter"):
      call()
  with pytest.raises(ConfigError, match="is not a regex"):
    tree.matches(A, "(", needed=False)

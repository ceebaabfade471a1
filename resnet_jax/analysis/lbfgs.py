"""L-BFGS for multinomial logistic regression, for several penalties side by side.

The textbook's method (Nocedal and Wright 2006, algorithm 7.4) with three changes. They leave the optimum as it is:

- All problems lie side by side, so one product of matrices serves them all.
- Logits are linear in the weights. So the line search works on the logits of the point and of the direction, and a step
  costs two products with the features, however often the line search looks.
- A step starts from a model of the Hessian instead of a number: `w G + penalty`. G is the Gram matrix of the features;
  its largest eigenvalues are computed. w is the curvature of the loss that the last step met, in units of G.
  The features of a network are correlated, and without the model L-BFGS needs many times as many steps.

In this file N is the number of rows, P of problems, K of classes, D of features.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

HISTORY = 12  # steps that L-BFGS remembers
RANK = 256  # eigenvalues of the Gram matrix in the model of the Hessian; more made no fewer steps
LOOKS = 12  # of a line search, at most
SLOPE = 0.1  # a line search ends where the slope is this part of what it was
PATIENCE = 5  # a problem is done after this many steps that gain nothing but rounding

Search = tuple[Array, Array, Array, Array, Array]
"""Of a line search: how often it has looked, where it looks, the bracket, and whether it has found."""

dot = partial(jnp.einsum, precision="highest")  # else TF32 or bfloat16 on GPUs and TPUs


class Problems(NamedTuple):
    """What is minimised over (W, b): `sum_n weight[n] * cross_entropy[n] + penalty[p] * |W|^2 / 2`.

    Attributes:
      rows: features whose mean is 0.
      hot: one-hot labels.
      weight: 1 / (number of rows), and 0 for padding.
    """

    rows: Float[Array, "N D"]
    hot: Float[Array, "N K"]
    weight: Float[Array, " N"]
    penalty: Float[Array, " P"]


class Spectrum(NamedTuple):
    """The Gram matrix of the features, `rows.T @ (weight * rows)`, as its largest eigenvalues and one for the rest."""

    values: Float[Array, " R"]
    vectors: Float[Array, "D R"]
    rest: Float[Array, ""]


class State(NamedTuple):
    """Where the problems are. The last column of `theta` is the bias.

    Attributes:
      logits: each less that of the row's true class.
      steps, changes, inner: the last steps, the changes of the gradient, and 1 / (step . change); the newest first, and
        `inner` 0 where there is none.
      lowest, idle: the lowest value so far, and for how many steps it has not become lower.
      taken: steps so far.
      done: nothing more can be gained.
    """

    theta: Float[Array, "P K D1"]
    logits: Float[Array, "N P K"]
    grad: Float[Array, "P K D1"]
    value: Float[Array, " P"]
    curvature: Float[Array, " P"]
    steps: Float[Array, "H P K D1"]
    changes: Float[Array, "H P K D1"]
    inner: Float[Array, "H P"]
    lowest: Float[Array, " P"]
    idle: Int[Array, " P"]
    taken: Int[Array, " P"]
    done: Bool[Array, " P"]


@jax.jit
def minimise(problems: Problems, tolerance: float, max_steps: int) -> State:
    """The state at the optimum of each problem, or after `max_steps`.

    Args:
      tolerance: a problem is done when the model says that less than this part of its value can still be gained.
    """
    spectrum = _spectrum(problems)

    def more(state: State) -> Array:
        return ~jnp.all(state.done) & (jnp.max(state.taken) < max_steps)

    return lax.while_loop(more, partial(_step, problems, spectrum, tolerance), _begin(problems))


def _spectrum(problems: Problems) -> Spectrum:
    """By subspace iteration from random directions (Halko, Martinsson and Tropp 2011, algorithm 4.4). Exact if D is at
    most RANK."""
    features = problems.rows.shape[1]
    rank = min(RANK, features)

    def gram_times(m: Array) -> Array:
        return dot("nd,nr->dr", problems.rows, problems.weight[:, None] * dot("nd,dr->nr", problems.rows, m))

    basis, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (features, rank), problems.rows.dtype))
    if rank < features:
        for _ in range(2):
            basis, _ = jnp.linalg.qr(gram_times(basis))
    values, turn = jnp.linalg.eigh(dot("dr,ds->rs", basis, gram_times(basis)))
    values = jnp.maximum(values, 0)
    return Spectrum(values, dot("dr,rs->ds", basis, turn), values[0])


def _begin(problems: Problems) -> State:
    number, classes, features = len(problems.penalty), problems.hot.shape[1], problems.rows.shape[1]
    theta = jnp.zeros((number, classes, features + 1), problems.rows.dtype)
    logits = jnp.zeros((len(problems.rows), number, classes), theta.dtype)
    residual = jnp.broadcast_to((1 / classes - problems.hot)[:, None, :], logits.shape)  # all classes are as likely
    none = jnp.zeros((HISTORY, *theta.shape), theta.dtype)
    value = jnp.full(number, math.log(classes), theta.dtype)
    zero = jnp.zeros(number, jnp.int32)
    return State(
        theta=theta,
        logits=logits,
        grad=_gradient(problems, theta, residual),
        value=value,
        curvature=jnp.full(number, 1 / classes, theta.dtype),
        steps=none,
        changes=none,
        inner=jnp.zeros((HISTORY, number), theta.dtype),
        lowest=value,
        idle=zero,
        taken=zero,
        done=zero > 0,
    )


def _step(problems: Problems, spectrum: Spectrum, tolerance: float, state: State) -> State:
    direction = _direction(problems, spectrum, state)
    done = state.done | (-_inner(state.grad, direction) / 2 <= tolerance * state.value)
    along = _relative_logits(problems, direction)
    far = jnp.where(done, 0, _line_search(problems, state._replace(done=done), along, direction))
    theta = state.theta + far[:, None, None] * direction
    logits = state.logits + far[None, :, None] * along
    loss, residual = _loss_and_residual(logits, problems.hot)
    grad = _gradient(problems, theta, residual)
    weights = theta[..., :-1]
    value = dot("n,np->p", problems.weight, loss) + problems.penalty * _inner(weights, weights) / 2

    step, change = theta - state.theta, grad - state.grad
    product = _inner(step, change)
    moved = product > 0
    plain = along - jnp.mean(along, axis=-1, keepdims=True)  # a direction adds up to 0 over the classes
    length = far**2 * dot("n,npk->p", problems.weight, plain**2)
    of_loss = product - problems.penalty * _inner(step[..., :-1], step[..., :-1])
    known = moved & (length > 0) & (of_loss > 0)
    lower = value < state.lowest * (1 - jnp.finfo(value.dtype).eps)
    idle = jnp.where(lower, 0, state.idle + 1)
    return State(
        theta=theta,
        logits=logits,
        grad=grad,
        value=value,
        curvature=jnp.where(known, of_loss / jnp.where(known, length, 1), state.curvature),
        steps=_push(step, state.steps),
        changes=_push(change, state.changes),
        inner=_push(jnp.where(moved, 1 / jnp.where(moved, product, 1), 0), state.inner),
        lowest=jnp.minimum(value, state.lowest),
        idle=idle,
        taken=state.taken + ~done,
        done=done | ~moved | (idle >= PATIENCE),
    )


def _direction(problems: Problems, spectrum: Spectrum, state: State) -> Array:
    """The two loops of L-BFGS."""

    def first(q: Array, pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        step, change, inner = pair
        factor = inner * _inner(step, q)
        return q - factor[:, None, None] * change, factor

    def second(r: Array, pair: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        step, change, inner, factor = pair
        return r + (factor - inner * _inner(change, r))[:, None, None] * step, None

    pairs = (state.steps, state.changes, state.inner)
    q, factors = lax.scan(first, state.grad, pairs)
    r = _solve_model(problems, spectrum, state.curvature, q)
    return -lax.scan(second, r, (*pairs, factors), reverse=True)[0]


def _solve_model(problems: Problems, spectrum: Spectrum, curvature: Array, q: Array) -> Array:
    """The inverse of the model of the Hessian, times `q`. To the bias the features' mean, 0, adds nothing."""
    w, penalty = curvature[:, None, None], problems.penalty[:, None, None]
    of_rest = 1 / (w * spectrum.rest + penalty)
    turned = dot("pkd,dr->pkr", q[..., :-1], spectrum.vectors)
    turned = turned * (1 / (w * spectrum.values[None, None] + penalty) - of_rest)
    weights = dot("pkr,dr->pkd", turned, spectrum.vectors) + of_rest * q[..., :-1]
    return jnp.concatenate([weights, q[..., -1:] / w], axis=-1)


def _line_search(problems: Problems, state: State, along: Array, direction: Array) -> Array:
    """How far to go: where the slope is 0, or nearly so. It rises along the line: Newton's method inside a bracket."""
    theta, move = state.theta[..., :-1], direction[..., :-1]
    here, linear, quadratic = (
        problems.penalty * _inner(a, b) for a, b in ((theta, theta), (theta, move), (move, move))
    )
    start = jnp.abs(_inner(state.grad, direction))
    enough = state.value * (1 + 4 * jnp.finfo(state.value.dtype).eps)

    def look(far: Array) -> tuple[Array, Array, Array]:
        loss, residual = _loss_and_residual(state.logits + far[None, :, None] * along, problems.hot)
        slope = jnp.sum(residual * along, axis=-1)
        bend = jnp.sum(residual * along**2, axis=-1) - slope**2  # `along` is 0 at the true class
        loss, slope, bend = (dot("n,np->p", problems.weight, x) for x in (loss, slope, bend))
        value = loss + here / 2 + far * linear + far**2 * quadratic / 2
        return value, slope + linear + far * quadratic, bend + quadratic

    def more(carry: Search) -> Array:
        looks, _, _, _, found = carry
        return (looks < LOOKS) & ~jnp.all(found)

    def narrow(carry: Search) -> Search:
        looks, far, low, high, found = carry
        value, slope, bend = look(far)
        found = found | ((jnp.abs(slope) <= SLOPE * start) & (value <= enough))
        low, high = jnp.where(slope < 0, far, low), jnp.where(slope < 0, high, far)
        newton = far - slope / jnp.maximum(bend, jnp.finfo(bend.dtype).tiny)
        inside = (newton > low) & (newton < jnp.minimum(high, 10 * far))
        other = jnp.where(jnp.isfinite(high), (low + high) / 2, 10 * far)
        return looks + 1, jnp.where(found, far, jnp.where(inside, newton, other)), low, high, found

    zero = jnp.zeros_like(start)
    first = (jnp.zeros((), jnp.int32), zero + 1, zero, zero + jnp.inf, state.done)
    _, far, low, _, found = lax.while_loop(more, narrow, first)
    return jnp.where(found, far, low)  # the value is convex: it is lower wherever it still falls


def _relative_logits(problems: Problems, theta: Array) -> Array:
    """Logits (N, P, K), each less that of the row's true class."""
    logits = dot("nd,pkd->npk", problems.rows, theta[..., :-1]) + theta[None, ..., -1]
    return logits - jnp.sum(logits * problems.hot[:, None, :], axis=-1, keepdims=True)


def _loss_and_residual(logits: Array, hot: Array) -> tuple[Array, Array]:
    """Cross-entropies (N, P), and probabilities less targets (N, P, K), from relative logits.

    Both are exact relative to their own size. Of a class that is nearly certain, `1 - probability` and `-log
    probability` computed as they are written would be rounding alone.
    """
    top = jnp.max(logits, axis=-1, keepdims=True)  # at least 0, the logit of the true class
    own = hot[:, None, :] > 0
    others = jnp.where(own, 0, jnp.exp(logits - top))
    rest = jnp.sum(others, axis=-1, keepdims=True)
    total = rest + jnp.exp(-top)
    loss = top + jnp.where(top > 0, jnp.log(total), jnp.log1p(rest))
    return loss[..., 0], jnp.where(own, -rest, others) / total


def _gradient(problems: Problems, theta: Array, residual: Array) -> Array:
    residual = residual * problems.weight[:, None, None]
    of_weights = dot("npk,nd->pkd", residual, problems.rows) + problems.penalty[:, None, None] * theta[..., :-1]
    return jnp.concatenate([of_weights, jnp.sum(residual, axis=0)[..., None]], axis=-1)


def _inner(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=(-2, -1))


def _push(new: Array, old: Array) -> Array:
    return jnp.concatenate([new[None], old[:-1]])

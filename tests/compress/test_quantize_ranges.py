"""What calibration sees of a tensor, beside NumPy on all of its numbers."""

import numpy as np
import pytest

from resnet_jax.compress.quantize.ranges import Histogram, look_at
from resnet_jax.compress.quantize.scales import Grid, grid_of, rounded, short, to_integers, to_numbers
from resnet_jax.config import QuantizeConfig
from resnet_jax.errors import ConfigError


def seen(*batches):
    histogram = Histogram()
    for batch in batches:
        histogram.add(look_at(batch))
    return histogram


def draw(seed=0):
    """Batches with other ranges: later ones have larger numbers, and smaller ones again."""
    rng = np.random.default_rng(seed)
    return [rng.normal(scale=scale, size=(500, 8)).astype(np.float32) for scale in (0.1, 30, 1, 2)]


def test_histograms_of_batches_are_those_of_all_numbers():
    batches = draw()
    together, at_once = seen(*batches), seen(np.concatenate(batches))
    assert np.array_equal(together.counts, at_once.counts)
    numbers = np.concatenate(batches).ravel()
    edges = (np.arange(2049) - 1024) * together.width
    assert np.array_equal(together.counts, np.histogram(numbers.astype(np.float64), edges)[0])
    assert (together.low, together.high) == (numbers.min(), numbers.max())
    assert together.width == 2.0 ** np.ceil(np.log2(np.abs(numbers).max())) / 1024


def test_the_ends_of_minmax_and_of_percentiles():
    numbers = np.concatenate(draw()).ravel()
    histogram = seen(*draw())
    assert histogram.range(QuantizeConfig(method="minmax")) == (numbers.min(), numbers.max())
    low, high = histogram.range(QuantizeConfig(method="percentile", percentile=99.0))
    exact = np.percentile(numbers, [1, 99])
    assert abs(low - exact[0]) <= histogram.width
    assert abs(high - exact[1]) <= histogram.width


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("after_relu", [True, False])
def test_least_squares_finds_the_range_with_the_least_error(bits, after_relu):
    """Beside the best of a search on the numbers themselves."""
    numbers = np.random.default_rng(0).standard_t(3, size=20000).astype(np.float32)
    numbers = np.maximum(numbers, 0) if after_relu else numbers
    config = QuantizeConfig(method="mse", activation_bits=bits)

    def error(low, high):
        grid = grid_of(low, high, bits)
        return float(np.mean((np.asarray(to_numbers(to_integers(numbers, grid, bits), grid)) - numbers) ** 2))

    low, high = seen(numbers).range(config)
    ends = np.linspace(0.05, 1, 12)
    lows = [0.0] if after_relu else numbers.min() * ends
    best = min(error(a, b) for a in lows for b in numbers.max() * ends)
    assert error(low, high) <= 1.05 * best
    assert error(low, high) < error(numbers.min(), numbers.max())
    assert (low == 0) == after_relu


@pytest.mark.parametrize("ends", [(0.0, 3.0), (-1.0, 2.0), (-5.0, -2.0), (0.5, 2.0), (0.0, 0.0)])
def test_zero_is_exact_and_the_ends_are_there(ends):
    for bits in range(2, 9):
        grid = grid_of(*ends, bits)
        assert to_numbers(to_integers(np.zeros(1, np.float32), grid, bits), grid) == 0
        last = 2**bits - 1
        numbers = np.asarray(to_numbers(np.array([0, last], np.uint8), grid))
        assert numbers[0] <= min(ends[0], 0) + grid.scale / 2
        assert numbers[1] >= max(ends[1], 0) - grid.scale / 2
        assert ends[0] < 0 or grid.zero_point == 0
        assert 0 <= grid.zero_point <= last


def test_what_an_integer_stands_for_is_exact():
    for scale in np.random.default_rng(0).uniform(0, 3, 1000):
        rounded_up = short(scale)
        assert scale <= rounded_up <= scale * (1 + 2.0**-15)
        assert np.float32(255) * np.float32(rounded_up) == 255 * rounded_up


def test_numbers_are_rounded_to_even_and_cut_off():
    grid = Grid(np.float32(0.5), np.int32(3))
    numbers = np.array([-9, -1.5, 0.25, 0.75, 1.25, 126, 127], np.float32)
    assert to_integers(numbers, grid, 8).tolist() == [0, 0, 3, 5, 5, 255, 255]


def test_the_derivative_passes_within_the_range():
    import jax

    grid = grid_of(-1.0, 2.0, 4)
    numbers = np.array([-1.5, -0.7, 0.0, 1.3, 1.9, 2.5], np.float32)
    slopes = jax.vmap(jax.grad(lambda x: rounded(x, grid, 4)))(numbers)
    assert slopes.tolist() == [0, 1, 1, 1, 1, 0]
    assert np.array_equal(rounded(numbers, grid, 4), to_numbers(to_integers(numbers, grid, 4), grid))


@pytest.mark.parametrize("field", ["weight_bits", "activation_bits"])
@pytest.mark.parametrize("bits", [1, 9])
def test_other_bits_are_refused(field, bits):
    with pytest.raises(ConfigError, match=f"{field} = {bits} is out of range; it must be >= 2 and <= 8"):
        QuantizeConfig(**{field: bits})


def test_percentiles_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="percentile = 100.0 is out of range; it must be > 50 and < 100"):
        QuantizeConfig(percentile=100.0)

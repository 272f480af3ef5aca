import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc import masks
from embedsvc.errors import SettingsError

RATES = [0.0, 0.1, 0.5, 0.9]

seeds = st.integers(0, 2**63 - 1)
keys = st.integers(0, 2**64 - 1)
sites = st.integers(0, 1000)
rates = st.floats(0, 1, exclude_max=True)
ids = st.text(st.characters())  # lone surrogates too


# --- an independent implementation of the documented layout ---


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox 4x64-10, from Salmon et al. (2011), section 3.3 and the constants of their Random123."""
    word = 2**64
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, word)
        high1, low1 = divmod(0xCA5A826395121157 * c2, word)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % word, (k1 + 0xBB67AE8584CAA73B) % word
    return c0, c1, c2, c3


def kept_by_the_layout(key: int, *, seed: int, index: int, site: int, units: int, rate: float) -> list[bool]:
    """One row of one pass, as the docstring of masks describes it."""
    threshold = min(round(rate * 65536), 65535)
    blocks = math.ceil(units / 16)
    kept = []
    for block in range(index * blocks, (index + 1) * blocks):
        for word in philox((block + 1, 0, site, 0), (seed, key)):
            kept += [(word >> shift) % 65536 >= threshold for shift in (0, 16, 32, 48)]
    return kept[:units]


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("0 0 0 0", "0 0", "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
        (
            " ".join(["ffffffffffffffff"] * 4),
            " ".join(["ffffffffffffffff"] * 2),
            "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
        ),
        (
            "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
            "452821e638d01377 be5466cf34e90c6c",
            "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
        ),
    ],
)
def test_the_reference_gives_the_known_answers_of_random123(counter, key, words):
    def parse(text: str) -> tuple[int, ...]:
        return tuple(int(word, 16) for word in text.split())

    assert philox(parse(counter), parse(key)) == parse(words)


@given(keys, seeds, st.integers(0, 2**40), sites, st.integers(0, 70), rates)
def test_every_bit_follows_the_documented_layout(key, seed, index, site, units, rate):
    kept = masks.keep([key], seed=seed, passes=[index], site=site, units=units, rate=rate)
    assert kept.shape == (1, 1, units)
    expected = kept_by_the_layout(key, seed=seed, index=index, site=site, units=units, rate=rate)
    assert kept[0, 0].tolist() == expected


@given(keys, seeds, sites)
def test_a_unit_is_dropped_exactly_below_the_threshold(key, seed, site):
    bits = philox((1, 0, site, 0), (seed, key))[0] % 65536
    out = np.zeros(1, dtype=np.bool_)
    for threshold in {bits, min(bits + 1, 65535)}:
        rate = threshold / 65536
        masks.Stream(seed).keep_into(out, key=key, site=site, index=0, rate=rate)
        kept = masks.keep([key], seed=seed, passes=[0], site=site, units=1, rate=rate)
        assert out.tolist() == kept[0, 0].tolist() == [bits >= threshold]


@given(ids, st.integers(0, 2**32 - 1))
def test_a_row_key_is_the_documented_hash(text_id, chunk):
    salt = chunk.to_bytes(4, "little") + bytes(12) if chunk else bytes(16)
    digest = hashlib.blake2b(text_id.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest()
    assert masks.row_key(text_id, chunk) == sum(byte << 8 * at for at, byte in enumerate(digest))


# Stored sets are read by these bits: whoever changes them must raise MASK_VERSION and keep the old layout readable.
GOLDEN = {
    ("reviews.txt:1", 0, 0, 0): "1111101111101101110111111010011101111111",
    ("reviews.txt:1", 0, 7, 0): "1111111010011111101101111111011101100111",
    ("reviews.txt:1", 3, 7, 0): "1111001011011101110111111111101010110101",
    ("reviews.txt:1", 3, 7, 4): "1101011111000110111111111111101110111101",
    ("日本 😀 e\u0301", 12345, 2**63 - 1, 73): "1111001100001110101110111101111111010111",
    ("\ud800", 0, 1, 0): "1011111110111111111111101111111001111101",
    ("", 0, 1, 0): "1111101100111011110111110110111111111100",
}


def test_the_layout_of_version_1_never_changes():
    assert masks.MASK_VERSION == 1
    drawn = {
        (text_id, index, seed, site): "".join(
            str(int(unit))
            for unit in masks.keep(
                masks.row_keys([text_id]), seed=seed, passes=[index], site=site, units=40, rate=0.25
            )[0, 0]
        )
        for text_id, index, seed, site in GOLDEN
    }
    assert drawn == GOLDEN


def test_row_keys_of_version_1_never_change():
    drawn = [f"{masks.row_key(*row):016x}" for row in [("reviews.txt:1",), ("reviews.txt:1", 1), ("",)]]
    assert drawn == ["736dc8766874192e", "0662ac064a9ad62e", "b4b2797457a0a6e4"]


# --- a mask belongs to its row and pass ---


@given(st.lists(ids, min_size=1, max_size=6, unique=True), st.randoms(), seeds, sites)
def test_a_row_does_not_depend_on_the_others_or_their_order(row_ids, random, seed, site):
    def draw(some: list[str]) -> dict[str, bytes]:
        kept = masks.keep(masks.row_keys(some), seed=seed, passes=[2], site=site, units=33, rate=0.5)
        return {text_id: kept[0, row].tobytes() for row, text_id in enumerate(some)}

    together = draw(row_ids)
    shuffled = row_ids.copy()
    random.shuffle(shuffled)
    assert draw(shuffled) == together
    for text_id in row_ids:
        assert draw([text_id]) == {text_id: together[text_id]}


@given(st.lists(st.integers(0, 12), max_size=10), st.integers(1, 40), rates)
def test_passes_in_any_order_with_gaps_are_the_passes_one_by_one(passes, units, rate):
    row_keys = masks.row_keys(["a", "b"])
    kept = masks.keep(row_keys, seed=7, passes=passes, site=3, units=units, rate=rate)
    assert kept.shape == (len(passes), 2, units)
    for at, index in enumerate(passes):
        alone = masks.keep(row_keys, seed=7, passes=[index], site=3, units=units, rate=rate)
        np.testing.assert_array_equal(kept[at], alone[0])


@given(st.integers(0, 100), st.integers(0, 20), st.integers(1, 40))
def test_a_range_of_passes_is_the_passes_one_by_one(first, count, units):
    row_keys = masks.row_keys(["a", "b"])
    kept = masks.keep(row_keys, seed=7, passes=range(first, first + count), site=0, units=units, rate=0.3)
    for index, drawn in zip(range(first, first + count), kept, strict=True):
        alone = masks.keep(row_keys, seed=7, passes=[index], site=0, units=units, rate=0.3)
        np.testing.assert_array_equal(drawn, alone[0])


@given(keys, seeds, st.integers(0, 50), sites, rates, st.sampled_from([(5,), (3, 7), (2, 3, 4), (16,), (0, 4)]))
def test_a_stream_fills_any_shape_with_what_keep_gives(key, seed, index, site, rate, shape):
    stream = masks.Stream(seed)
    out = np.zeros(shape, dtype=np.bool_)
    stream.keep_into(np.ones(9, dtype=np.bool_), key=key ^ 1, site=site, index=index + 1, rate=0.5)  # leaves no trace
    stream.keep_into(out, key=key, site=site, index=index, rate=rate)
    kept = masks.keep([key], seed=seed, passes=[index], site=site, units=out.size, rate=rate)
    np.testing.assert_array_equal(out, kept.reshape(shape))


def test_a_stream_fills_a_view_that_is_not_contiguous():
    grid = np.zeros((2, 6, 6), dtype=np.bool_)
    masks.Stream(7).keep_into(grid[:, :3, :4], key=11, site=2, index=5, rate=0.5)
    kept = masks.keep([11], seed=7, passes=[5], site=2, units=24, rate=0.5).reshape(2, 3, 4)
    np.testing.assert_array_equal(grid[:, :3, :4], kept)
    assert not grid[:, 3:].any()
    assert not grid[:, :, 4:].any()


def test_no_rows_and_no_passes_give_empty_masks():
    assert masks.keep([], seed=7, passes=[0], site=0, units=8, rate=0.1).shape == (1, 0, 8)
    assert masks.keep([1], seed=7, passes=[], site=0, units=8, rate=0.1).shape == (0, 1, 8)
    assert masks.row_keys([]).shape == (0,)


def test_negative_passes_do_not_exist():
    with pytest.raises(SettingsError, match="pass -1 does not exist"):
        masks.keep([1], seed=7, passes=[0, -1], site=0, units=8, rate=0.1)


@pytest.mark.parametrize("bad", [{"seed": -1}, {"seed": 2**63}, {"rate": 1.0}, {"rate": -0.1}])
def test_seed_and_rate_are_checked(bad):
    with pytest.raises(SettingsError, match="expected"):
        masks.keep([1], **({"seed": 7, "passes": [0], "site": 0, "units": 8, "rate": 0.1} | bad))


# --- masks are fair and independent ---


def assert_binomial(hits: int, n: int, p: float) -> None:
    """Chernoff's bound: fails a fair draw less than once in a million."""
    q = hits / n
    divergence = sum(a * math.log(a / b) for a, b in ((q, p), (1 - q, 1 - p)) if a > 0)
    assert n * divergence < math.log(2e6), f"{hits} of {n}, expected {p}"


@pytest.mark.parametrize("rate", RATES)
def test_the_kept_fraction_is_one_minus_the_rate(rate):
    row_keys = masks.row_keys(f"row {row}" for row in range(40))
    kept = masks.keep(row_keys, seed=7, passes=range(30), site=1, units=100, rate=rate)
    if rate == 0:
        assert kept.all()
        return
    assert_binomial(int(kept.sum()), kept.size, 1 - rate)
    for axis in range(3):  # each pass, each row, each position by itself
        others = tuple(other for other in range(3) if other != axis)
        for hits in kept.sum(axis=others):
            assert_binomial(int(hits), kept.size // kept.shape[axis], 1 - rate)


@given(rates)
def test_a_rate_is_met_to_sixteen_bits(rate):
    """All 65,536 values of a unit's bits are equally likely, so the rate in force is the count of those dropped."""
    in_force = int(masks._threshold(rate)) / 65536
    assert abs(in_force - rate) <= (2**-17 if rate <= 1 - 2**-17 else 2**-16)


def test_rate_0_keeps_all_and_the_highest_rate_can_still_keep():
    assert masks.keep([1], seed=7, passes=[0], site=0, units=1000, rate=0.0).all()
    kept = masks.keep([1], seed=7, passes=[0], site=0, units=2_000_000, rate=np.nextafter(1.0, 0.0))
    assert 0 < kept.sum() < 200


def drawn(seed: int = 7, index: int = 0, site: int = 0, text_id: str = "a", units: int = 16_384) -> np.ndarray:
    return masks.keep(masks.row_keys([text_id]), seed=seed, passes=[index], site=site, units=units, rate=0.5)[0, 0]


OTHERS = {
    "the next seed": drawn(seed=8),
    "a far seed": drawn(seed=7 + 2**40),
    "the next pass": drawn(index=1),
    "a far pass": drawn(index=2**20),
    "the next site": drawn(site=1),
    "another row": drawn(text_id="b"),
    "the next chunk": masks.keep([masks.row_key("a", 1)], seed=7, passes=[0], site=0, units=16_384, rate=0.5)[0, 0],
    # What adding numbers up would confuse.
    "pass and site swapped": (drawn(index=1, site=2), drawn(index=2, site=1)),
    "seed and pass swapped": (drawn(seed=1, index=2), drawn(seed=2, index=1)),
}


@pytest.mark.parametrize("other", OTHERS)
def test_masks_of_different_draws_are_uncorrelated(other):
    one, two = OTHERS[other] if isinstance(OTHERS[other], tuple) else (drawn(), OTHERS[other])
    n = len(one)
    # Agreements of fair independent bits, also when one of the two is shifted by some units.
    for shift in (*range(-17, 18), 64, 768, n // 2):
        assert_binomial(int((one == np.roll(two, shift)).sum()), n, 0.5)


def test_neighbouring_units_of_a_mask_are_uncorrelated():
    mask = drawn()
    for shift in (*range(1, 70), 768):
        assert_binomial(int((mask == np.roll(mask, shift)).sum()), len(mask), 0.5)


# --- dropout, and what it does to a vector (SCIENCE, closed forms) ---


def test_dropout_scales_what_is_kept():
    x = np.array([1.0, -2.0, 3.0], dtype=np.float32)
    kept = np.array([True, False, True])
    dropped = masks.dropout(x, kept, 0.25)
    assert dropped.dtype == np.float32
    np.testing.assert_array_equal(dropped, x * kept * np.float32(1 / 0.75))
    assert x.tolist() == [1.0, -2.0, 3.0]


def test_what_is_dropped_is_plus_zero_even_if_it_was_infinite():
    x = np.array([np.inf, -np.inf, np.nan, -1.0], dtype=np.float32)
    dropped = masks.dropout(x, np.zeros(4, dtype=np.bool_), 0.5)
    assert dropped.tolist() == [0.0] * 4
    assert not np.signbit(dropped).any()


P, Q = 0.1, 0.9
WIDTH, PASSES = 768, 4000
RNG = np.random.default_rng(11)
X, Y = (RNG.standard_normal((2, WIDTH)) * RNG.gamma(1.0, 1.0, WIDTH)).astype(np.float32)
Y = (0.6 * X + 0.8 * Y).astype(np.float32)


@pytest.fixture(scope="module")
def passes() -> tuple[np.ndarray, np.ndarray]:
    """Both vectors under their own masks, float64, shape (PASSES, WIDTH) each."""
    kept = masks.keep(masks.row_keys(["x", "y"]), seed=7, passes=range(PASSES), site=0, units=WIDTH, rate=P)
    dropped = masks.dropout(np.stack([X, Y]), kept, P).astype(np.float64)
    return dropped[:, 0], dropped[:, 1]


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def assert_mean(samples: np.ndarray, expected: float, *, bias: float = 0.0) -> None:
    """The mean is as expected within five standard errors, and what the closed form leaves out."""
    error = samples.std(ddof=1) / math.sqrt(len(samples))
    assert abs(samples.mean() - expected) < 5 * error + bias, (samples.mean(), expected, error)


def test_the_expectation_of_post_is_pre(passes):
    error = (passes[0].mean(0) - X) / np.abs(X) / math.sqrt(P / Q / PASSES)
    assert np.abs(error).max() < 5
    # Over all units the standardised errors are standard normal.
    assert abs((error**2).mean() - 1) < 5 * math.sqrt(2 / WIDTH)


def test_the_variance_of_a_unit_is_p_over_q_times_its_square(passes):
    ratio = passes[0].var(0) / (P / Q * X.astype(np.float64) ** 2)
    # Sampling error of a Bernoulli's variance, five of them over 768 units.
    assert np.abs(ratio - 1).max() < 5 * math.sqrt(((1 - 2 * P) ** 2 / (P * Q)) / PASSES)


def test_the_squared_distance_to_pre_is_p_over_q_times_its_square(passes):
    energy = float(X.astype(np.float64) @ X)
    assert_mean(((passes[0] - X) ** 2).sum(1), P / Q * energy)
    assert_mean(((passes[0][::2] - passes[0][1::2]) ** 2).sum(1), 2 * P / Q * energy)


def test_the_cosine_to_pre_is_the_root_of_the_kept_energy(passes):
    x = X.astype(np.float64)
    cosines = cosine(passes[0], x)
    kept = ((passes[0] != 0) * x**2).sum(1) / (x**2).sum()
    np.testing.assert_allclose(cosines, np.sqrt(kept), atol=1e-6)
    participation = (x**2).sum() ** 2 / (x**4).sum()
    # The next term of the expansion is of order 1 / participation squared.
    assert_mean(cosines, math.sqrt(Q) - P / (8 * participation * math.sqrt(Q)), bias=participation**-2)
    assert cosines.std() == pytest.approx(math.sqrt(P / (4 * participation)), rel=0.08)


def test_two_passes_of_a_vector_have_cosine_q(passes):
    participation = float((X.astype(np.float64) ** 2).sum() ** 2 / (X.astype(np.float64) ** 4).sum())
    assert_mean(cosine(passes[0][::2], passes[0][1::2]), Q, bias=1 / participation)


def test_two_texts_keep_q_of_their_cosine(passes):
    whole = float(cosine(X.astype(np.float64), Y.astype(np.float64)))
    assert 0.3 < whole < 0.9
    assert_mean(cosine(*passes), Q * whole, bias=0.002)


def test_two_texts_move_apart_by_the_energy_of_both(passes):
    x, y = X.astype(np.float64), Y.astype(np.float64)
    assert_mean(((passes[0] - passes[1]) ** 2).sum(1), float(((x - y) ** 2).sum() + P / Q * (x @ x + y @ y)))
    # Two passes of both give their distance back without bias.
    apart = ((passes[0] - passes[1])[::2] * (passes[0] - passes[1])[1::2]).sum(1)
    assert_mean(apart, float(((x - y) ** 2).sum()))


@pytest.mark.parametrize("n", [2, 8, 40])
def test_the_mean_of_passes_approaches_pre_along_the_t_curve(passes, n):
    means = passes[0].reshape(-1, n, WIDTH).mean(1)
    assert_mean(cosine(means, X.astype(np.float64)), 1 / math.sqrt(1 + P / (Q * n)), bias=0.001)


def test_the_logit_variance_is_p_over_q_times_the_squared_terms(passes):
    w = RNG.standard_normal(WIDTH)
    logits = passes[0] @ w
    assert logits.var() == pytest.approx(P / Q * float((w**2 * X.astype(np.float64) ** 2).sum()), rel=0.12)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc.training.batches import epoch_batches, pieces
from embedsvc.training.schedule import learning_rate
from embedsvc.training.settings import Decay

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=200).map(lambda values: np.array(values, dtype=np.int64))


@given(LENGTHS, st.integers(1, 40), st.integers(0, 2**63 - 1))
def test_every_row_is_in_one_batch(lengths, batch_size, seed):
    batches = epoch_batches(lengths, batch_size=batch_size, seed=seed, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    assert len(batches) == -(-len(lengths) // batch_size)


def test_batches_repeat_with_seed_and_epoch_and_change_with_either():
    lengths = np.arange(1, 500)

    def flat(seed, epoch):
        return np.concatenate(epoch_batches(lengths, batch_size=16, seed=seed, epoch=epoch)).tolist()

    assert flat(1, 0) == flat(1, 0)
    assert len({tuple(flat(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_batches_hold_little_padding():
    lengths = np.random.default_rng(0).integers(5, 120, 4000)
    batches = epoch_batches(lengths, batch_size=32, seed=0, epoch=0)
    padded = sum(len(rows) * lengths[rows].max() for rows in batches)
    assert padded < 1.06 * lengths.sum() < 0.6 * 128 * 4000


@given(LENGTHS, st.integers(1, 300))
def test_pieces_are_a_batch_within_the_budget(lengths, budget):
    rows = np.arange(len(lengths))[::-1]
    found = pieces(rows, lengths, budget)
    assert sorted(np.concatenate(found).tolist()) == sorted(rows.tolist())
    assert all(len(part) == 1 or len(part) * lengths[part].max() <= budget for part in found)


@pytest.mark.parametrize("decay", Decay)
def test_the_learning_rate_rises_to_its_peak_and_falls(decay):
    rates = [learning_rate(step, steps=100, peak=2.0, warmup=0.1, decay=decay) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[10] == 2.0
    assert all(0 < rate <= 2.0 for rate in rates)
    assert (rates[-1] == 2.0) == (decay is Decay.NONE)
    assert rates[10:] == sorted(rates[10:], reverse=True)

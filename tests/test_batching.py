import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedsvc import masks
from embedsvc.batching import OnLong, check_max_tokens, firsts, fit, plan
from embedsvc.errors import InputError, SettingsError
from embedsvc.models.base import forward
from embedsvc.models.fake import FakeEncoder
from embedsvc.types import Mode, ModelSpec, Pass, Text, Tokens


def spec(max_tokens: int | None = 10, special_tokens: int = 2) -> ModelSpec:
    return ModelSpec("m", "", "", max_tokens, {}, (), special_tokens=special_tokens)


def tokens(*lengths: int) -> Tokens:
    """Rows of ids 0, 1, 2, …"""
    ids = tuple(np.arange(n, dtype=np.int32) for n in lengths)
    return Tokens(tuple(f"text {n}" for n in lengths), ids, np.array(lengths, dtype=np.int64))


def strings(*counts: int) -> Tokens:
    """What a model gives that takes strings only."""
    return Tokens(tuple("word " * 4 for _ in counts), None, np.array(counts, dtype=np.int64))


def names(n: int) -> list[str]:
    return [f"id {row}" for row in range(n)]


@given(st.lists(st.lists(st.integers(0, 2), max_size=2), max_size=30))
def test_a_row_goes_by_the_first_that_has_its_tokens(rows):
    ids = tuple(np.array(row, dtype=np.int32) for row in rows)
    counts = np.array([len(row) for row in rows], dtype=np.int64)
    assert firsts(Tokens(("",) * len(rows), ids, counts)).tolist() == [rows.index(row) for row in rows]


class TestPlan:
    rows = st.lists(st.tuples(st.integers(-1, 60), st.text(max_size=80)), max_size=60)

    @staticmethod
    def make(rows: list[tuple[int, str]]) -> tuple[Tokens, list[int]]:
        counts = [count for count, _ in rows]
        lengths = [count if count >= 0 else len(text) // 4 + 1 for count, text in rows]
        return Tokens(tuple(text for _, text in rows), None, np.array(counts, dtype=np.int64)), lengths

    @given(rows, st.integers(1, 200), st.integers(0, 3))
    def test_every_row_runs_exactly_once(self, rows, budget, special):
        batches = plan(self.make(rows)[0], token_budget=budget, special_tokens=special)
        assert all(len(batch) for batch in batches)
        assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(rows)))

    @given(rows, st.integers(1, 200), st.integers(0, 3))
    def test_a_batch_stays_within_the_budget_or_is_a_single_row(self, rows, budget, special):
        made, lengths = self.make(rows)
        for batch in plan(made, token_budget=budget, special_tokens=special):
            longest = max(lengths[row] + special for row in batch)
            assert len(batch) == 1 or len(batch) * longest <= budget

    @given(rows, st.integers(1, 200))
    def test_no_batch_has_room_for_the_next_row(self, rows, budget):
        made, lengths = self.make(rows)
        batches = plan(made, token_budget=budget)
        for batch, following in zip(batches, batches[1:], strict=False):
            assert (len(batch) + 1) * lengths[following[0]] > budget

    @given(rows, st.integers(1, 200))
    def test_the_same_rows_make_the_same_batches(self, rows, budget):
        one, two = (plan(self.make(rows)[0], token_budget=budget) for _ in range(2))
        assert [batch.tolist() for batch in one] == [batch.tolist() for batch in two]

    @given(rows, st.integers(1, 200))
    def test_rows_run_by_length_and_ties_by_place(self, rows, budget):
        made, lengths = self.make(rows)
        order = [row for batch in plan(made, token_budget=budget) for row in batch.tolist()]
        assert order == sorted(range(len(rows)), key=lambda row: (lengths[row], row))

    def test_nothing_to_run_is_no_batch(self):
        assert plan(tokens(), token_budget=10) == []

    def test_special_tokens_count(self):
        assert [len(batch) for batch in plan(tokens(3, 3), token_budget=6)] == [2]
        assert [len(batch) for batch in plan(tokens(3, 3), token_budget=6, special_tokens=2)] == [1, 1]


class TestLimit:
    def test_the_models_own_is_the_default(self):
        assert check_max_tokens(spec(10), None) == 10
        assert check_max_tokens(spec(None), None) is None

    @pytest.mark.parametrize("limit", [3, 10])
    def test_it_can_be_lowered(self, limit):
        assert check_max_tokens(spec(10), limit) == limit

    def test_it_cannot_exceed_what_the_model_reads(self):
        with pytest.raises(SettingsError, match="max_tokens is 11, but m reads at most 10"):
            check_max_tokens(spec(10), 11)
        assert check_max_tokens(spec(None), 10**6) == 10**6

    @pytest.mark.parametrize("limit", [2, 1, 0, -5])
    def test_it_must_leave_room_for_a_token(self, limit):
        with pytest.raises(SettingsError, match=f"max_tokens is {limit}, but the model adds 2 special tokens"):
            check_max_tokens(spec(10), limit)


class TestTruncate:
    def test_exactly_the_limit_stays_whole_and_one_more_is_cut(self):
        fitted = fit(tokens(7, 8, 9), names(3), spec(10))
        assert [len(ids) for ids in fitted.pieces.ids] == [7, 8, 8]
        assert fitted.pieces.counts.tolist() == [7, 8, 8]
        assert fitted.n_tokens.tolist() == [9, 10, 10]
        assert fitted.truncated.tolist() == [False, False, True]

    def test_the_first_tokens_are_kept(self):
        fitted = fit(tokens(30), names(1), spec(10))
        assert fitted.pieces.ids[0].tolist() == list(range(8))

    def test_the_last_tokens_are_kept_where_the_end_is_asked_for(self):
        fitted = fit(tokens(30, 3), names(2), spec(10), keep_end=True)
        assert [ids.tolist() for ids in fitted.pieces.ids] == [list(range(22, 30)), [0, 1, 2]]
        assert fitted.truncated.tolist() == [True, False]

    def test_a_model_that_cuts_strings_itself_cannot_keep_the_end(self):
        assert not fit(strings(8), names(1), spec(10), keep_end=True).truncated.any()
        with pytest.raises(SettingsError, match="the end of a long text was asked for, but m takes strings"):
            fit(strings(9), names(1), spec(10), keep_end=True)

    def test_a_text_without_tokens_is_read(self):
        fitted = fit(tokens(0), names(1), spec(10))
        assert (fitted.n_tokens.tolist(), fitted.truncated.tolist()) == ([2], [False])

    def test_a_lower_limit_can_be_asked_for(self):
        fitted = fit(tokens(1, 2), names(2), spec(10), max_tokens=3)
        assert fitted.n_tokens.tolist() == [3, 3]
        assert fitted.truncated.tolist() == [False, True]

    def test_a_model_without_limit_reads_all(self):
        given_ = tokens(5000)
        fitted = fit(given_, names(1), spec(None))
        assert fitted.pieces is given_
        assert (fitted.n_tokens.tolist(), fitted.truncated.tolist()) == ([5002], [False])

    def test_strings_stay_strings_and_are_flagged_where_the_model_will_cut(self):
        given_ = strings(7, 8, 9, -1)
        fitted = fit(given_, names(4), spec(10))
        assert fitted.pieces is given_
        assert fitted.n_tokens.tolist() == [9, 10, 10, -1]
        assert fitted.truncated.tolist() == [False, False, True, False]

    def test_keys_are_those_of_the_rows(self):
        fitted = fit(tokens(1, 20), names(2), spec(10))
        np.testing.assert_array_equal(fitted.keys, masks.row_keys(names(2)))
        assert fitted.rows.tolist() == [0, 1]

    def test_the_given_tokens_are_not_changed(self):
        given_ = tokens(30)
        fit(given_, names(1), spec(10))
        assert len(given_.ids[0]) == given_.counts[0] == 30

    @pytest.mark.parametrize("on_long", OnLong)
    def test_no_rows_are_no_pieces(self, on_long):
        fitted = fit(tokens(), [], spec(10), on_long=on_long)
        assert len(fitted.pieces) == len(fitted.rows) == len(fitted.n_tokens) == 0
        assert fitted.merge(np.empty((0, 4), dtype=np.float32)).shape == (0, 4)


class TestFail:
    def test_the_first_row_that_is_too_long_is_named_with_both_counts(self):
        with pytest.raises(InputError, match="^id 1: the text has 11 tokens, the limit is 10\n.*--on-long truncate"):
            fit(tokens(8, 9, 30), names(3), spec(10), on_long=OnLong.FAIL)

    def test_texts_that_fit_pass(self):
        fitted = fit(tokens(8, 0), names(2), spec(10), on_long=OnLong.FAIL)
        assert fitted.n_tokens.tolist() == [10, 2]
        assert not fitted.truncated.any()

    def test_a_text_of_unknown_length_passes(self):
        assert fit(strings(-1), names(1), spec(10), on_long=OnLong.FAIL).n_tokens.tolist() == [-1]

    def test_a_plain_string_does_the_same(self):
        with pytest.raises(InputError, match="the limit is 10"):
            fit(tokens(9), names(1), spec(10), on_long="fail")

    def test_an_unknown_way_is_an_error_that_lists_the_known(self):
        with pytest.raises(SettingsError, match="on_long is 'cut'\nKnown: truncate, fail, chunk-mean"):
            fit(tokens(9), names(1), spec(10), on_long="cut")


class TestChunkMean:
    @given(st.lists(st.integers(0, 40), max_size=8), st.integers(3, 12))
    def test_pieces_together_are_the_text(self, lengths, limit):
        given_ = tokens(*lengths)
        fitted = fit(given_, names(len(lengths)), spec(limit), on_long=OnLong.CHUNK_MEAN)
        assert all(len(piece) + 2 <= limit for piece in fitted.pieces.ids)
        for row, ids in enumerate(given_.ids):
            pieces = [piece for piece, owner in zip(fitted.pieces.ids, fitted.rows, strict=True) if owner == row]
            np.testing.assert_array_equal(np.concatenate(pieces), ids)
            assert all(len(piece) == limit - 2 for piece in pieces[:-1])
            assert len(pieces) == max(1, -(-len(ids) // (limit - 2)))
        assert (np.diff(fitted.rows) >= 0).all()
        assert fitted.n_tokens.tolist() == [n + 2 for n in lengths]
        assert not fitted.truncated.any()

    def test_exactly_the_limit_is_one_piece_and_one_more_makes_two(self):
        fitted = fit(tokens(8, 9), names(2), spec(10), on_long=OnLong.CHUNK_MEAN)
        assert fitted.rows.tolist() == [0, 1, 1]
        assert fitted.pieces.counts.tolist() == [8, 8, 1]

    def test_the_first_piece_has_the_key_of_the_row_and_each_other_its_own(self):
        fitted = fit(tokens(20, 20), names(2), spec(10), on_long=OnLong.CHUNK_MEAN)
        assert fitted.keys.dtype == np.uint64
        assert fitted.keys.tolist() == [masks.row_key(f"id {row}", chunk) for row in range(2) for chunk in range(3)]
        assert len(set(fitted.keys.tolist())) == 6

    def test_a_vector_is_the_mean_of_its_pieces_weighted_by_their_tokens(self):
        fitted = fit(tokens(20, 3, 0), names(3), spec(10), on_long=OnLong.CHUNK_MEAN)
        vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
        merged = fitted.merge(vectors)
        assert merged.dtype == np.float32
        expected = (8 * vectors[0] + 8 * vectors[1] + 4 * vectors[2]) / 20
        np.testing.assert_allclose(merged, [expected, vectors[3], vectors[4]], rtol=1e-6)

    def test_vectors_of_texts_that_fit_are_handed_on_as_they_are(self):
        fitted = fit(tokens(8, 0), names(2), spec(10), on_long=OnLong.CHUNK_MEAN)
        vectors = np.ones((2, 4), dtype=np.float32)
        assert fitted.merge(vectors) is vectors

    def test_strings_cannot_be_read_in_chunks(self):
        with pytest.raises(SettingsError, match="cannot be read in chunks"):
            fit(strings(9), names(1), spec(10), on_long=OnLong.CHUNK_MEAN)


ENCODER = FakeEncoder(width=32, rate=0.3, max_tokens=8)
LONG = [Text("long", " ".join(f"w{i}" for i in range(40))), Text("short", "a b"), Text("none", "")]


@pytest.mark.parametrize("mode", [Mode.TRAINING, Mode.HEAD])
def test_a_text_read_in_chunks_has_one_head_mask(mode):
    taps = ["pre_dropout", "post_dropout", "logits"]
    for index in range(5):
        pass_ = Pass(mode, index, 7)
        pre, post, logits = forward(ENCODER, LONG, taps=taps, pass_=pass_, on_long=OnLong.CHUNK_MEAN).vectors.values()
        keys = masks.row_keys(text.id for text in LONG)
        kept = masks.keep(keys, seed=7, passes=[index], site=masks.HEAD_SITE, units=32, rate=0.3)[0]
        np.testing.assert_array_equal(post, pre * kept * np.float32(1 / 0.7))
        np.testing.assert_array_equal(logits, ENCODER.head.logits(post))


def test_a_text_read_in_chunks_is_the_mean_of_its_pieces():
    words = LONG[0].text.split()
    pieces = [Text(f"piece {at}", " ".join(words[at : at + 7])) for at in range(0, 40, 7)]
    whole = forward(ENCODER, LONG, taps=["pre_dropout"], on_long=OnLong.CHUNK_MEAN)
    apart = forward(ENCODER, pieces, taps=["pre_dropout"]).vectors["pre_dropout"]
    expected = np.average(apart, axis=0, weights=[7, 7, 7, 7, 7, 5])
    np.testing.assert_allclose(whole.vectors["pre_dropout"][0], expected, atol=1e-6)
    assert whole.n_tokens.tolist() == [41, 3, 1]
    assert not whole.truncated.any()


def test_pieces_of_a_text_have_encoder_masks_of_their_own():
    """Six pieces of the same words would be one vector, were they dropped alike."""
    same = [Text("long", "w " * 42)]
    one = forward(
        ENCODER, same, taps=["mean"], pass_=Pass(Mode.TRAINING, 0, 7), max_tokens=8, on_long=OnLong.CHUNK_MEAN
    )
    first = forward(ENCODER, [Text("long", "w " * 7)], taps=["mean"], pass_=Pass(Mode.TRAINING, 0, 7))
    assert not np.allclose(one.vectors["mean"], first.vectors["mean"], atol=1e-3)


def test_a_lower_limit_is_refused_where_the_model_would_not_heed_it():
    with pytest.raises(SettingsError, match="takes strings and cuts them itself at 10"):
        fit(strings(3), names(1), spec(10), max_tokens=5)
    assert len(fit(strings(3), names(1), spec(10), max_tokens=10).rows) == 1

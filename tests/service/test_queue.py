from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from embedsvc.service.queue import FairQueue, Flow, Work

BUDGET = 64


def work(*lengths: int, group: str = "a", flow: Flow | None = None) -> Work:
    return Work(group, list(lengths), None, flow or Flow())


def everything(queue: FairQueue) -> list[list]:
    batches = []
    while batch := queue.take():
        batches.append(batch)
    return batches


works = st.lists(
    st.tuples(st.sampled_from("ab"), st.lists(st.integers(1, 100), min_size=1, max_size=12)), min_size=1, max_size=12
)


@given(works)
def test_every_row_is_taken_once_within_the_budget_and_with_its_own_group(given_works):
    queue = FairQueue(BUDGET, BUDGET)
    pushed = [work(*lengths, group=group) for group, lengths in given_works]
    for each in pushed:
        queue.push(each)
    batches = everything(queue)
    taken = Counter((id(row.work), row.index) for batch in batches for row in batch)
    assert taken == Counter((id(each), index) for each in pushed for index in range(len(each.lengths)))
    for batch in batches:
        assert len({row.work.group for row in batch}) == 1
        assert len(batch) == 1 or len(batch) * max(row.length for row in batch) <= BUDGET


@given(works, st.data())
def test_the_backlog_is_what_waits_and_ends_at_nothing(given_works, data):
    queue = FairQueue(BUDGET, BUDGET)
    pushed = [work(*lengths, group=group) for group, lengths in given_works]
    for each in pushed:
        queue.push(each)
    assert queue.tokens == sum(sum(each.lengths) for each in pushed)
    assert queue.backlog == sum(min(sum(each.lengths), BUDGET) for each in pushed)
    for each in pushed:
        if data.draw(st.booleans()) and each.future.cancel():
            queue.drop(each)
    taken = [row for batch in everything(queue) for row in batch]
    assert not any(row.work.future.cancelled() for row in taken)
    assert (queue.tokens, queue.backlog) == (0, 0)


def test_what_waits_is_shared_among_the_workers():
    queue = FairQueue(BUDGET, BUDGET, workers=2)
    for _ in range(3):
        queue.push(work(10))
    assert [len(batch) for batch in everything(queue)] == [1, 1, 1]
    queue.push(work(*[10] * 8))
    # Four of eight, two of four, and then one by one.
    assert [len(batch) for batch in everything(queue)] == [4, 2, 1, 1]
    queue.push(work(*[10] * 100))
    assert len(queue.take()) == BUDGET // 10


def test_a_request_of_many_tokens_counts_for_a_newcomer_with_one_batch_only():
    queue = FairQueue(BUDGET, BUDGET)
    queue.push(work(*[10] * 1000))
    assert (queue.backlog, queue.tokens) == (BUDGET, 10_000)


def test_a_short_request_does_not_wait_for_a_long_one():
    queue = FairQueue(BUDGET, BUDGET)
    queue.push(work(*[10] * 1000))
    queue.take()
    short = work(10)
    queue.push(short)
    assert short in [row.work for row in queue.take()]


def test_two_long_requests_share_by_tokens():
    queue = FairQueue(BUDGET, BUDGET)
    first, second = work(*[10] * 300), work(*[30] * 100)
    queue.push(first)
    queue.push(second)
    done = Counter()
    for _ in range(40):
        for row in queue.take():
            done[id(row.work)] += row.length
    a, b = done[id(first)], done[id(second)]
    assert abs(a - b) < 0.25 * (a + b)


def test_a_stream_of_short_requests_does_not_starve_a_long_one():
    """As many as admission lets wait; every one that is served is followed by another."""
    queue = FairQueue(BUDGET, BUDGET)
    long = work(*[60] * 5)
    queue.push(long)
    taken = 0
    batches = 0
    while taken < 5:
        batches += 1
        while queue.backlog < 6 * BUDGET:
            queue.push(work(60))
        taken += sum(row.work is long for row in queue.take())
        assert batches < 5 * 8


def test_rows_of_like_length_run_together():
    queue = FairQueue(BUDGET, BUDGET)
    queue.push(work(4, 30, 4, 30, 4))
    batches = [[row.length for row in batch] for batch in everything(queue)]
    assert batches == [[4, 4], [30, 30], [4]]


@given(st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=8), min_size=20, max_size=40))
def test_a_newcomer_waits_for_what_the_queue_held_and_for_nothing_later(requests):
    """However many come behind it, which is what overload is."""
    queue = FairQueue(BUDGET, BUDGET)
    for lengths in requests:
        queue.push(work(*lengths))
    newcomer = work(8, 1, 8, 1, 8, 1, 8)
    before = queue.backlog
    queue.push(newcomer)
    ran = 0
    while newcomer.waiting:
        ran += sum(row.length for row in queue.take())
        while queue.backlog < before:
            queue.push(work(*[4] * 8))
    # While its last rows are in the window, later ones that are more like the first may ride in front of them.
    assert ran <= before + sum(newcomer.lengths) + 3 * BUDGET


def test_requests_of_one_turn_are_answered_in_the_order_in_which_they_came():
    queue = FairQueue(BUDGET, BUDGET)
    requests = [work(*[8] * 4) for _ in range(20)]
    for each in requests:
        queue.push(each)
    order = [row.work for batch in everything(queue) for row in batch]
    assert order == [each for each in requests for _ in range(4)]


def test_the_passes_of_one_request_share_its_claim():
    queue = FairQueue(BUDGET, BUDGET)
    flow = Flow()
    for _ in range(10):
        queue.push(work(50, flow=flow))
    assert queue.backlog == BUDGET
    other = work(50)
    queue.push(other)
    order = [row.work for batch in everything(queue) for row in batch]
    assert order.index(other) <= 2  # a turn ends with the row that fills it

"""Flight: an actor holds the units that its engine needs, so that the others are free to go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.cluster.datasets import GROW_AT
from gemma_batch.planning.flight import CALLS, COMMITTING, SPARE, flight


@pytest.mark.parametrize(
    ("in_flight", "sizes", "calls"),
    [
        (64, [6000] * 9, 2),  # one large unit keeps the engine full
        (1024, [75] * 99, 19),
        (1024, [75] * 9 + [2400] * 9 + [75] * 30, 19),  # the small units at the ends decide
        (1024, [2400, 1, 2400, 1, 2400, 1], 3),  # the short end of each file does not
        (1024, [1] * 9999, 32),
        (64, [1], 2),
        (64, [], 2),
    ],
)
def test_units_by_the_rows_that_the_engine_wants(
    in_flight: int, sizes: list[int], calls: int
) -> None:
    """Wherever an actor is in the input, and not by the smallest unit of all."""
    assert flight(in_flight, sizes).calls == calls


def test_sorting_by_prefix_has_its_window_from_units_of_the_usual_size() -> None:
    """The small units at the ends do not blow it up."""
    sizes = [75] * 20 + [2400] * 60 + [75] * 20
    assert flight(64, sizes, window=4096).calls == 5
    assert flight(64, [75] * 20, window=4096).calls == CALLS[1]


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60), st.integers(1, 3000))
def test_any_run_of_so_many_units_fills_the_engine(sizes: list[int], in_flight: int) -> None:
    """Beside the unit that is being committed."""
    calls = flight(in_flight, sizes).calls
    enough = [end for end in range(1, len(sizes) + 1) if sum(sizes[:end]) >= SPARE * in_flight]
    runs = [sizes[max(0, end - (calls - COMMITTING)) : end] for end in enough]
    assert calls == CALLS[1] or all(sum(run) >= in_flight for run in runs)


@pytest.mark.parametrize("size", [1, 64, 187, 6000])
def test_a_pool_that_is_busy_is_above_the_threshold_at_which_ray_data_lets_it_grow(
    size: int,
) -> None:
    """Ray Data divides the units in flight by the calls (`AutoscalingActorPool.get_pool_util`)."""
    held = flight(1024, [size] * 99)
    assert held.units / held.calls >= GROW_AT


@pytest.mark.parametrize("share", [1.0, 2, 4, 0.5, 0.25, 1 / 3, 0.9, 0.17])
@pytest.mark.parametrize("rows", [1, 10, 64, 1024])
def test_ray_data_counts_every_engine_that_a_pool_wants(share: float, rows: int) -> None:
    """With its own arithmetic for the nodes to ask for: 3 calls would cost the last engine."""
    from ray.data._internal.execution.interfaces import ExecutionResources
    from ray.data._internal.util import get_max_task_capacity

    for size in (1, 5, 64, 300):
        needed = flight(rows, [size] * 99)
        calls = needed.growing(share).calls
        actor = ExecutionResources(gpu=share)
        for most in (1, 2, 3, 8, 64):
            wanted = actor.scale(1 / calls).scale(most * calls)
            assert get_max_task_capacity(wanted, actor) >= most
        assert needed.calls <= calls <= needed.calls + 8
    lost = ExecutionResources(gpu=1).scale(1 / 3).scale(4 * 3)
    assert get_max_task_capacity(lost, ExecutionResources(gpu=1)) == 3

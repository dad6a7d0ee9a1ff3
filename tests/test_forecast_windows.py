from typing import Any

import numpy as np

from jaxrnn.data.forecast_windows import HeldOutWindows, WindowBatches, origins_of

T, N, C, F = 3, 2, 2, 1
SIZES: dict[str, Any] = {"num_targets": C, "num_known": F, "input_len": T, "horizon": N}
ROWS = np.arange(20 * 4, dtype=np.float32).reshape(20, 4)  # 2 targets, a covariate, one known


def batches(count: int, batch_size: int, seed: int = 3) -> WindowBatches:
    origins = np.arange(T, T + count)
    return WindowBatches(rows=ROWS, origins=origins, batch_size=batch_size, seed=seed, **SIZES)


def origins_in(past: np.ndarray) -> list[int]:
    """The origins of windows, by the first value of the row before each."""
    return [int(v) // 4 + 1 for v in past[:, -1, 0]]


def test_a_window_is_the_rows_around_its_origin():
    (past, known), targets, starts = batches(12, 5).batch_at(0)
    assert (past.shape, known.shape, targets.shape) == ((5, T, 4), (5, N, F), (5, N, C))
    assert not starts
    for k, t in enumerate(origins_in(past)):
        np.testing.assert_array_equal(past[k], ROWS[t - T : t])
        np.testing.assert_array_equal(known[k], ROWS[t : t + N, 3:])
        np.testing.assert_array_equal(targets[k], ROWS[t : t + N, :C])


def test_each_epoch_has_every_window_once_in_an_order_of_its_own():
    source = batches(7, 3)
    assert source.steps_per_epoch == 3
    seen = [t for step in range(7) for t in origins_in(source.batch_at(step)[0][0])]
    epochs = [seen[7 * k : 7 * k + 7] for k in range(3)]
    assert all(sorted(epoch) == list(range(T, T + 7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[1] != epochs[2]
    other = [t for step in range(3) for t in origins_in(batches(7, 3, 4).batch_at(step)[0][0])]
    assert other[:7] != epochs[0]


def test_a_batch_is_a_function_of_the_step():
    one, two = batches(7, 3), batches(7, 3)
    two.batch_at(0)
    for step in (5, 0, 11):
        np.testing.assert_array_equal(one.batch_at(step)[1], two.batch_at(step)[1])
        part = two.batch_at(step, slice(1, 3))
        np.testing.assert_array_equal(part[0][0], one.batch_at(step)[0][0][1:3])
        np.testing.assert_array_equal(part[1], one.batch_at(step)[1][1:3])


def test_fewer_windows_than_a_batch_are_taken_several_times():
    source = batches(2, 5)
    assert source.steps_per_epoch == 1
    assert sorted(origins_in(source.batch_at(0)[0][0])) in ([3, 3, 3, 4, 4], [3, 3, 4, 4, 4])


def test_held_out_windows_count_once_and_read_the_part_before():
    origins = origins_of(9, 17, T, N)
    np.testing.assert_array_equal(origins, np.arange(9, 16))
    held_out = HeldOutWindows(rows=ROWS, origins=origins, batch_size=4, baseline={}, **SIZES)
    assert held_out.num_counted == 7
    windows = list(held_out.windows(1, 1))
    assert [mask.tolist() for _, _, mask in windows] == [[True] * 4, [True] * 3 + [False]]
    seen = [t for (past, _), _, mask in windows for t in origins_in(past[mask])]
    assert seen == list(range(9, 16))
    strided = [origins[places][counted].tolist() for places, counted in held_out.places(2)]
    assert strided == [[9, 11, 13, 15]]
    assert [len(places) for places, _ in held_out.places(3)] == [4]
    np.testing.assert_array_equal(held_out.before(np.array([0, 6]), 5)[1], ROWS[10:15])


def test_origins_need_a_whole_past_and_a_whole_target():
    assert origins_of(0, 6, T, N).tolist() == [3, 4]
    assert origins_of(0, 5, T, N).tolist() == [3]
    assert origins_of(0, 4, T, N).tolist() == []
    assert origins_of(5, 5, T, N).tolist() == []

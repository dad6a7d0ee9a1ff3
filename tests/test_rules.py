"""What is chosen, by shape and device."""

import pytest

from jaxrnn import rules


@pytest.mark.parametrize(
    ("platform", "num_devices", "batch_size", "expected"),
    [
        ("cpu", 2, 64, 2),
        ("cpu", 2, 32, 2),
        ("cpu", 2, 16, 2),
        ("cpu", 2, 14, 1),  # two parts of 8 rows don't fit
        ("cpu", 2, 33, 1),  # nor do two divide it
        ("cpu", 2, 1, 1),
        ("cpu", 1, 64, 1),
        ("cpu", 16, 64, 8),  # of 8 rows each
        ("cpu", 8, 48, 6),
        ("cpu", 6, 128, 4),  # 5 and 6 don't divide it
        ("gpu", 8, 1024, 1),
        ("tpu", 4, 1024, 1),
    ],
)
def test_a_batch_is_shared_by_cores_of_enough_rows(platform, num_devices, batch_size, expected):
    assert rules.data_shards(platform, num_devices, batch_size) == expected


def test_short_steps_are_dispatched_together():
    assert rules.steps_per_dispatch(10**12) == 1
    assert rules.steps_per_dispatch(10**11) == 6
    assert rules.steps_per_dispatch(1000) == 100


@pytest.mark.parametrize(
    ("capacity", "step_s", "expected"),
    [(100, None, 1), (100, 0.5, 8), (6, 0.5, 6), (6, 9.0, 1), (100, 0.0, 100), (1, 1e-5, 1)],
)
def test_a_dispatch_takes_no_longer_than_a_signal_may_wait(capacity, step_s, expected):
    assert rules.steps_in_time(capacity, step_s) == expected


def test_only_a_cpu_transposes_first():
    assert rules.contiguous_rows("cpu")
    assert not rules.contiguous_rows("gpu")
    assert not rules.contiguous_rows("tpu")


@pytest.mark.parametrize(
    ("num_steps", "batch_size", "row_bytes", "expected"),
    [
        (100, 128, 8192, 5),  # 8 steps would fit, 5 divide the 100
        (50, 64, 4096, 25),
        (20, 64, 4096, 20),  # all fit
        (97, 64, 4096, 1),  # nothing else divides them, and a step's matmul is large enough
        (97, 32, 8192, 97),  # nor here, and it is not
        (4096, 1, 8192, 1024),
        (100, 0, 8192, 100),
    ],
)
def test_a_cpu_projects_as_many_steps_as_its_cache_holds(
    num_steps, batch_size, row_bytes, expected
):
    assert rules.steps_ahead("cpu", num_steps, batch_size, row_bytes) == expected
    assert rules.steps_ahead("gpu", num_steps, batch_size, row_bytes) == num_steps


def test_the_explanation_says_what_is_chosen():
    text = rules.explain("cpu", num_devices=2, batch_size=64, flops=10**11)
    assert "2 parts of 32 rows" in text
    assert "up to 6 steps a dispatch" in text
    assert "contiguous rows" in text
    text = rules.explain("gpu", num_devices=1, batch_size=64, flops=10**13)
    assert "whole on one device" in text
    assert "up to 1 step a dispatch" in text
    assert "contiguous rows" not in text


def test_the_likeliest_of_a_small_vocabulary_are_counted():
    assert rules.count_larger(83)
    assert rules.count_larger(256)
    assert not rules.count_larger(257)


def test_a_tpu_computes_whole_tiles_of_units_several_steps_a_round():
    assert [rules.padded_units("tpu", size) for size in (1, 128, 129, 512)] == [128, 128, 256, 512]
    assert [rules.padded_units("cpu", size) for size in (1, 129)] == [1, 129]
    assert [rules.unroll(platform) for platform in ("cpu", "gpu", "tpu")] == [1, 8, 4]

"""The table of layouts: round trips, suffixes, and what is refused."""

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from foreign_layers import (
    GATES,
    ONE_BIAS,
    TWO_BIASES,
    WITHOUT_BIAS,
    H,
    I,
    assert_same,
    bits,
    kind_of,
    normal,
    options_of,
    stacked,
    torch_tensors,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import message

from torch_compat import layout
from torch_compat.foreign import LAYOUTS, from_layout, to_layout


@pytest.mark.parametrize("suffix", ["", "_l0_reverse", "_l1", "_l12_reverse"])
def test_any_layer_and_direction_has_its_suffix(suffix):
    plain = torch_tensors("onnx.LSTM", suffixes=("",))
    tensors = {f"{n}{suffix}": a for n, a in plain.items()}
    arrays = to_layout("onnx.LSTM", tensors, suffix=suffix)
    assert bits(arrays) == bits(to_layout("onnx.LSTM", plain, suffix=""))
    assert bits(from_layout("onnx.LSTM", arrays, suffix=suffix)) == bits(tensors)


# cuDNN: one flat buffer.


@st.composite
def cases(draw):
    name = draw(st.sampled_from(sorted(LAYOUTS)))
    sizes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    bias = draw(st.booleans()) if name in WITHOUT_BIAS else True
    dtype = draw(st.sampled_from([np.float64, np.float32, np.float16, ml_dtypes.bfloat16]))
    suffix = "_l0" if name.startswith("cudnn.") else draw(st.sampled_from(["_l0", "_l3"]))
    suffixes = (suffix, f"{suffix}_reverse")
    two = name.startswith(("onnx.", "cudnn.")) and draw(st.booleans())
    return name, sizes, bias, dtype, suffixes if two else suffixes[:1]


@settings(max_examples=200, deadline=None)
@given(cases())
def test_a_round_trip_changes_no_bit(case):
    name, sizes, bias, dtype, suffixes = case
    options = options_of(name, sizes, bidirectional=len(suffixes) == 2)
    offset = {"forget_bias": 0.0} if name.startswith("tensorflow") else {}
    tensors = torch_tensors(name, bias, suffixes, dtype, sizes)
    arrays = to_layout(name, tensors, suffix=suffixes[0], **offset)
    if name in TWO_BIASES:
        back = from_layout(name, arrays, suffix=suffixes[0], **options)
        assert bits(back) == bits(tensors)
        assert list(back) == list(tensors)

    arrays = {n: normal(a.shape, 5).astype(a.dtype) for n, a in arrays.items()}
    for array in arrays.values():
        array[normal(array.shape, 6) < -1] = -0.0
    tensors = from_layout(name, arrays, suffix=suffixes[0], **options, **offset)
    assert bits(to_layout(name, tensors, suffix=suffixes[0], **offset)) == bits(arrays)


@pytest.mark.parametrize("name", ONE_BIAS)
def test_two_biases_become_their_sum_and_zeros(name):
    tensors = torch_tensors(name)
    back = from_layout(name, to_layout(name, tensors))
    own, other = ("bias_ih_l0", "bias_hh_l0")
    if kind_of(name) == "lstm" and name.startswith("flax."):
        own, other = other, own
    joint = slice(0, 2 * H) if kind_of(name) == "gru" else slice(None)
    expected = {n: a.copy() for n, a in tensors.items()}
    expected[own][joint] += expected[other][joint]
    expected[other][joint] = 0
    assert sorted(back) == sorted(expected)
    if name != "tensorflow.BasicLSTMCell":
        assert bits(back) == {n: bits(expected)[n] for n in back}
    assert_same([back[n] for n in expected], list(expected.values()))


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_layer_without_biases_gets_none_or_zeros(name):
    tensors = torch_tensors(name, bias=False)
    arrays = to_layout(name, tensors)
    back = from_layout(name, arrays, **options_of(name))
    if name in WITHOUT_BIAS:
        assert not {"bias", "B"} & set(arrays)
        assert bits(back) == bits(tensors)
    else:
        zeros = {n: np.zeros(len(GATES[kind_of(name)]) * H) for n in ("bias_ih_l0", "bias_hh_l0")}
        assert bits(back) == bits(tensors | zeros)


def test_a_sum_of_bfloat16_is_rounded_once():
    tensors = torch_tensors("tensorflow.BasicLSTMCell", dtype=ml_dtypes.bfloat16)
    tensors["bias_ih_l0"][:], tensors["bias_hh_l0"][:] = 1, 2**-10  # 1 + 2**-10 rounds to 1
    bias = to_layout("tensorflow.BasicLSTMCell", tensors)["bias"]
    assert bias.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(bias[2 * H : 3 * H].astype(np.float64), 2**-10)
    np.testing.assert_array_equal(bias[: 2 * H].astype(np.float64), 1)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_no_memory_is_shared_and_nothing_given_is_written_to(name):
    tensors = torch_tensors(name)
    for tensor in tensors.values():
        tensor.flags.writeable = False
    arrays = to_layout(name, tensors)
    for array in arrays.values():
        assert not any(np.shares_memory(array, tensor) for tensor in tensors.values())
        array.flags.writeable = False
    back = from_layout(name, arrays, **options_of(name))
    for tensor in back.values():
        assert not any(np.shares_memory(array, tensor) for array in arrays.values())


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_how_an_array_lies_in_memory_does_not_matter(name):
    tensors = torch_tensors(name)
    arrays = to_layout(name, tensors)
    strided = {n: np.repeat(np.asfortranarray(a), 2, -1)[..., ::2] for n, a in tensors.items()}
    assert bits(to_layout(name, strided)) == bits(arrays)
    expected = from_layout(name, arrays, **options_of(name))
    strided = {n: np.repeat(np.asfortranarray(a), 2, -1)[..., ::2] for n, a in arrays.items()}
    assert bits(from_layout(name, strided, **options_of(name))) == bits(expected)


# What is refused, and how it is said.


def test_the_layouts_need_numpy_alone():
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'jax', 'flax', 'keras', 'onnx'))\n"
        "import numpy as np; from torch_compat.foreign import from_layout\n"
        "arrays = {'kernel': np.ones((2, 3)), 'recurrent_kernel': np.eye(3)}\n"
        "print({n: a.shape for n, a in from_layout('keras.SimpleRNN', arrays).items()})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "{'weight_ih_l0': (3, 2), 'weight_hh_l0': (3, 3)}\n"


@pytest.mark.parametrize("call", [from_layout, to_layout])
def test_an_unknown_layout_is_answered_with_the_known_ones(call):
    found = message(call, "keras.LSTMs", {})
    assert found == f"unknown layout 'keras.LSTMs', expected one of {', '.join(LAYOUTS)}"


RESET = (
    "without it the reset gate multiplies h before the matrix product, which is another equation "
    "than torch.nn.GRU's"
)


def test_the_other_gru_of_keras_is_refused():
    name, tensors = "keras.GRU", torch_tensors("keras.GRU")
    arrays = to_layout(name, tensors)
    expected = f"keras.GRU: reset_after is False, must be True: {RESET}"
    assert message(from_layout, name, arrays, reset_after=False) == expected
    assert message(to_layout, name, tensors, reset_after=False) == expected
    assert bits(from_layout(name, arrays, reset_after=True)) == bits(tensors)
    assert message(from_layout, name, arrays | {"bias": np.zeros(3 * H)}) == (
        f"keras.GRU: bias (18,) is refused: it is that of reset_after=False; {RESET}"
    )


def test_the_other_gru_of_onnx_is_refused():
    name, tensors = "onnx.GRU", torch_tensors("onnx.GRU")
    arrays = to_layout(name, tensors, linear_before_reset=1)
    expected = f"onnx.GRU: linear_before_reset is {{}}, must be 1: {RESET}"
    assert message(from_layout, name, arrays) == expected.format("missing")
    assert message(from_layout, name, arrays, linear_before_reset=0) == expected.format(0)
    assert message(to_layout, name, tensors, linear_before_reset=0) == expected.format(0)


def test_peepholes_are_refused():
    arrays = to_layout("onnx.LSTM", torch_tensors("onnx.LSTM")) | {"P": np.zeros((1, 3 * H))}
    expected = "onnx.LSTM: P (1, 18) is refused: torch.nn.LSTM has no peepholes"
    assert message(from_layout, "onnx.LSTM", arrays) == expected


def test_a_bias_inside_the_reset_gates_product_is_refused_by_nnx():
    tensors = torch_tensors("flax.nnx.GRUCell")
    tensors["bias_hh_l0"][2 * H + 1] = -0.3
    assert message(to_layout, "flax.nnx.GRUCell", tensors) == (
        "flax.nnx.GRUCell has no bias inside the reset gate's product (google/flax#5594): "
        "bias_hh_l0 of n must be zero, its largest value is 0.3"
    )


@pytest.mark.parametrize("name", [name for name in LAYOUTS if kind_of(name) == "lstm"])
def test_projections_are_refused(name):
    shapes = layout.recurrent("lstm", I, H, proj_size=2)
    tensors = {n: np.zeros(shape) for n, shape in shapes.items()}
    expected = f"{name} has no projection (proj_size): weight_hr_l0 (2, 6)"
    assert message(to_layout, name, tensors) == expected


def test_suffixes_are_torchs():
    tensors = torch_tensors("onnx.RNN", suffixes=("_l0", "_l0_reverse"))
    arrays = to_layout("onnx.RNN", tensors)
    for call, given_arrays in ((from_layout, arrays), (to_layout, tensors)):
        assert message(call, "onnx.RNN", given_arrays, suffix="_0") == (
            "suffix is '_0', expected one of torch's: '_l0', '_l1_reverse', ''"
        )
    for suffix in ("", "_l0_reverse"):
        assert message(from_layout, "onnx.RNN", arrays, suffix=suffix) == (
            f"onnx.RNN: suffix is {suffix!r}, expected that of the forward direction, such as "
            "'_l0', since the arrays hold two"
        )
    flat = to_layout("cudnn.RNN", tensors)
    options = options_of("cudnn.RNN", bidirectional=True)
    expected = "cudnn.RNN holds all layers and directions: suffix '_l1' has no meaning"
    assert message(from_layout, "cudnn.RNN", flat, suffix="_l1", **options) == expected
    assert message(to_layout, "cudnn.RNN", tensors, suffix="_l1") == expected


def test_a_flat_buffer_needs_sizes():
    flat = to_layout("cudnn.GRU", torch_tensors("cudnn.GRU"))
    rest = "expected a whole number from 1: a flat buffer has no shapes to read it from"
    assert message(from_layout, "cudnn.GRU", flat, hidden_size=H) == (
        f"cudnn.GRU: input_size is None, {rest}"
    )
    options = options_of("cudnn.GRU")
    for option, value in (("num_layers", 0), ("hidden_size", 2.5)):
        assert message(from_layout, "cudnn.GRU", flat, **options | {option: value}) == (
            f"cudnn.GRU: {option} is {value}, {rest}"
        )
    assert message(from_layout, "cudnn.GRU", flat, **options | {"bidirectional": 2}) == (
        "cudnn.GRU: bidirectional is 2, expected True or False"
    )
    assert message(from_layout, "cudnn.GRU", flat, **options | {"num_layers": 2}) == (
        "cudnn.GRU: parameters don't fit: weights has shape (216,), expected (468,)"
    )


def test_options_are_those_of_the_layout():
    name = "tensorflow.BasicLSTMCell"
    tensors = torch_tensors(name)
    assert message(to_layout, name, tensors, forget=1.0, reset_after=True) == (
        "tensorflow.BasicLSTMCell: no option forget, reset_after here, expected forget_bias"
    )
    assert message(to_layout, "cudnn.LSTM", tensors, input_size=I) == (
        "cudnn.LSTM: no option input_size here, expected none"
    )
    for value in (float("nan"), "1"):
        assert message(to_layout, name, tensors, forget_bias=value) == (
            f"tensorflow.BasicLSTMCell: forget_bias is {value}, expected a finite number"
        )


def test_all_arrays_that_do_not_fit_are_named_together():
    arrays = to_layout("keras.LSTM", torch_tensors("keras.LSTM"))
    arrays["kernel"] = arrays["kernel"].T
    arrays["bias"][3] = np.nan
    del arrays["recurrent_kernel"]
    arrays["extra"] = np.zeros((2, 3), np.float32)
    arrays["count"] = np.zeros((), np.int64)
    assert message(from_layout, "keras.LSTM", arrays) == (
        "keras.LSTM: parameters don't fit: kernel has shape (24, 4), expected (4, 24); "
        "recurrent_kernel is missing, expected (6, 24); "
        "bias (24,) holds 1 values that are NaN or infinite, expected finite ones (24,); "
        "extra (2, 3) is not expected; count () is not expected; "
        "dtypes are mixed, expected one: bias is float64, extra is float32"
    )


def test_all_tensors_that_do_not_fit_are_named_together():
    tensors: dict[str, Any] = torch_tensors("onnx.GRU", suffixes=("_l0", "_l0_reverse"))
    tensors["weight_ih_l0"] = tensors["weight_ih_l0"].T
    tensors["weight_hh_l0"] = tensors["weight_hh_l0"][:, :-1]
    tensors["bias_hh_l0"] = tensors["bias_hh_l0"].astype(np.int32)
    tensors["weight_ih_l1"] = np.zeros((3 * H, 2 * H))
    del tensors["bias_ih_l0"], tensors["weight_ih_l0_reverse"]
    assert message(to_layout, "onnx.GRU", tensors) == (
        "onnx.GRU: parameters don't fit: weight_ih_l0 has shape (4, 18), expected (18, 4); "
        "weight_hh_l0 has shape (18, 5), expected (18, 6); bias_ih_l0 is missing, expected (18,); "
        "bias_hh_l0 (18,) is int32, expected floating-point (18,); "
        "weight_ih_l0_reverse is missing, expected (18, 4); weight_ih_l1 (18, 12) is not expected"
    )


def test_a_stack_lacks_no_layer():
    tensors = stacked("rnn", 2, True)
    tensors = {n.replace("_l1", "_l2"): a for n, a in tensors.items()}
    del tensors["weight_hh_l2_reverse"]
    found = message(to_layout, "cudnn.RNN", tensors)
    for n in ("weight_ih_l1", "weight_hh_l1", "bias_ih_l1", "weight_ih_l1_reverse"):
        assert f"{n} is missing" in found
    for n in ("weight_ih_l2 (6, 12)", "bias_hh_l2_reverse (6,)"):
        assert f"{n} is not expected" in found


def test_a_missing_size_is_unknown():
    assert message(from_layout, "keras.SimpleRNN", {}) == (
        "keras.SimpleRNN: parameters don't fit: kernel is missing, expected (?, ?); "
        "recurrent_kernel is missing, expected (?, ?)"
    )


def test_arrays_are_a_mapping_by_name(unchecked):
    weights = [np.zeros((I, H)), np.zeros((H, H))]  # as Keras's get_weights gives them
    assert message(from_layout, "keras.SimpleRNN", weights) == (
        "keras.SimpleRNN: arrays is a list, expected a mapping by the names 'kernel', "
        "'recurrent_kernel', 'bias'"
    )


def test_names_of_variables_and_absent_arrays_are_taken():
    arrays = to_layout("keras.SimpleRNN", torch_tensors("keras.SimpleRNN"))
    named = {f"{name}:0": array for name, array in arrays.items()}
    assert bits(from_layout("keras.SimpleRNN", named)) == bits(
        from_layout("keras.SimpleRNN", arrays)
    )
    del arrays["bias"]
    without = from_layout("keras.SimpleRNN", arrays)
    assert bits(from_layout("keras.SimpleRNN", arrays | {"bias": None})) == bits(without)
    assert list(without) == ["weight_ih_l0", "weight_hh_l0"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_of_torch_are_taken_as_they_are(dtype):
    module = torch.nn.GRU(I, H, dtype=dtype)
    arrays = to_layout("keras.GRU", dict(module.named_parameters()))
    assert bits(arrays) == bits(to_layout("keras.GRU", module.state_dict()))
    back = from_layout("keras.GRU", arrays)
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(back[name].astype(np.float32), tensor.float().numpy())


def test_a_name_is_given_once():
    arrays = {"i": {"kernel": np.zeros((I, H))}, "i.kernel": np.zeros((I, H))}
    expected = "flax.linen.SimpleCell: i.kernel is given twice, nested and with dots"
    assert message(from_layout, "flax.linen.SimpleCell", arrays) == expected


def test_a_sum_that_overflows_is_refused():
    tensors = torch_tensors("keras.SimpleRNN", dtype=np.float16)
    tensors["bias_ih_l0"][2] = tensors["bias_hh_l0"][2] = 40_000
    assert message(to_layout, "keras.SimpleRNN", tensors) == (
        "keras.SimpleRNN: parameters don't fit: bias (6,) holds 1 values that are NaN or infinite, "
        "expected finite ones (6,)"
    )

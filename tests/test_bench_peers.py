"""Each library's adapter computes what ours does, or says what it can't."""

import dataclasses
import io
import json
import sys
import types
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import torch
from bench_cases import LSTM, ROWS

from jaxrnn import recurrence
from jaxrnn.bench import peers, results
from jaxrnn.bench.peers import (
    Session,
    UnsupportedError,
    gpu_kernels,
    jax_cudnn,
    ours,
    ours_persistent,
    start,
    torch_nn,
)
from jaxrnn.bench.workloads import Goal, Workload, data, parameters

pytestmark = pytest.mark.usefixtures("as_users_have_it")

CAN = {
    "torch": set(ROWS),
    "flax": set(ROWS) - {"projection"},
    "keras": set(ROWS) - {"projection"},
    "equinox": {"lstm", "gru", "lengths"},
}


@pytest.fixture(scope="module")
def our_checks() -> dict[str, Session]:
    return {}


@pytest.mark.filterwarnings("ignore")  # of other libraries, about themselves
@pytest.mark.parametrize(
    ("peer", "row"), [(peer, row) for peer, rows in CAN.items() for row in ROWS if row in rows]
)
def test_a_peer_computes_what_we_do(peer, row, our_checks):
    workload = replace(ROWS[row], mode="gradients")
    if row not in our_checks:
        ours = start("jaxrnn", workload)
        y, grads = ours.check()  # type: ignore[misc]
        assert max(np.abs(grad).max() for grad in grads.values()) > 1e-3
        our_checks[row] = replace(ours, check=lambda: (y, grads))
    found = results.difference(our_checks[row], start(peer, workload))
    assert found is not None
    assert found.size < 1e-5
    forward = start(peer, ROWS[row])
    assert our_checks[row].check is not None
    y, _ = our_checks[row].check()
    np.testing.assert_allclose(_array(forward.call()), y, rtol=1e-5, atol=1e-6)
    assert forward.check is not None
    np.testing.assert_allclose(forward.check()[0], y, rtol=1e-5, atol=1e-6)


def _array(y) -> np.ndarray:
    return y.numpy() if isinstance(y, torch.Tensor) else np.asarray(y)


@pytest.mark.filterwarnings("ignore")  # of other libraries, about themselves
@pytest.mark.parametrize("precision", results.TOLERANCES)
@pytest.mark.parametrize("row", ["lstm", "gru", "lengths"])
def test_gradients_are_the_references_in_every_precision(row, precision):
    workload = replace(ROWS[row], mode="gradients", precision=precision, exact=True)
    basis = peers.reference(workload)
    assert basis.check is not None
    y, grads = basis.check()
    assert y.dtype == np.float64
    assert max(np.abs(grad).max() for grad in grads.values()) > 1e-2
    expected = replace(basis, check=lambda: (y, grads))
    with peers.precision_of(workload):
        for name in ("jaxrnn", "torch", "flax"):
            session = start(name, workload)
            found = results.difference(expected, session)
            assert found is not None
            is_half = precision in ("bfloat16", "float16")  # a CPU has no TF32
            assert found.size < (results.TOLERANCES[precision] if is_half else 1e-5), name
            assert (found.size > 1e-5) == is_half, name
            session.call()


def test_what_is_timed_of_gradients_is_what_was_compared():
    workload = replace(LSTM, mode="gradients")
    for name in ("jaxrnn", "flax"):
        session = start(name, workload)
        assert session.check is not None
        _, expected = session.check()
        (value, y), grads = session.call()
        assert y.shape == (3, 5, 6)
        found = np.sort([np.abs(np.asarray(grad)).sum() for grad in grads.values()])
        wanted = np.sort([np.abs(grad).sum() for grad in expected.values()])
        np.testing.assert_allclose(found, wanted[-len(found) :], rtol=1e-5)
        assert np.isfinite(value)


def test_half_precision_that_an_adapter_lacks_is_said():
    half = replace(LSTM, precision="bfloat16")
    for name in ("keras", "equinox", "jax-rnn"):
        with pytest.raises(UnsupportedError, match="it is not set up for bfloat16"):
            start(name, half)
    with pytest.raises(UnsupportedError, match="scaled losses"):
        start("torch", replace(LSTM, precision="float16", mode="train"))


def test_torch_trains_in_bfloat16_as_its_users_do():
    """Under autocast: parameters and Adam in float32, products in bfloat16."""
    row = Workload("tiny", "lstm", 5, 4, 7, 8, 2, output_size=7, is_text=True, lr=0.01)
    half = replace(row, precision="bfloat16")
    session, exact = start("torch", half), start("torch", row)
    found = results.difference(exact, session)
    assert found is not None
    assert 1e-4 < found.size < 5e-2
    losses = [session.call() for _ in range(20)]
    assert losses[-1] < losses[0] - 0.05
    found = results.difference(start("jaxrnn", half), start("torch", half))
    assert found is not None
    assert found.size < 5e-2


def test_ours_by_name_says_what_it_lacks(monkeypatch):
    for name in ("jaxrnn-cudnn", "jaxrnn-kernel", "jaxrnn-cluster"):
        with pytest.raises(UnsupportedError, match="needs an NVIDIA GPU"):
            start(name, LSTM)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UnsupportedError, match="the LSTM alone"):
        start("jaxrnn-cudnn", ROWS["gru"])
    with pytest.raises(UnsupportedError, match="a small case of it fails"):  # of a machine without
        start("jaxrnn-cudnn", LSTM)
    with pytest.raises(UnsupportedError, match="not in float32"):
        start("jaxrnn-kernel", LSTM)


@pytest.fixture
def kernel_row(monkeypatch) -> Workload:
    """That the kernels can do, where scan stands for them."""
    scan = dataclasses.replace(recurrence.BACKENDS["scan"], name="persistent")
    monkeypatch.setitem(recurrence.BACKENDS, "persistent", scan)
    return replace(LSTM, precision="bfloat16", hidden_size=64, mode="gradients")


def test_our_kernels_are_tried_in_a_child_first(kernel_row, monkeypatch):
    log = []

    class FakeChild:
        answers = iter(["", EOFError("Aborted"), "it failed with X: y", "", TimeoutError("late")])

        def __init__(self, backend):
            log.append(f"begun {backend}")

        def run(self, workload):
            log.append(workload.name)
            answer = next(self.answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        def end(self):
            log.append("ended")

    monkeypatch.setattr(ours_persistent, "Child", FakeChild)
    trials = {"persistent": ours_persistent.Trials("persistent")}
    monkeypatch.setattr(ours_persistent, "TRIALS", trials)
    rows = [replace(kernel_row, name=name) for name in "abcdefg"]
    said = []
    for row in rows:
        try:
            session = start("jaxrnn-kernel", row)
            said.append(session.check is not None)
        except ours_persistent.TrialError as error:
            said.append(str(error))
    assert said == [
        *(True, "in another process it failed with Aborted"),
        *("in another process it failed with X: y", True, "in another process late"),
        *["in another process e did not end"] * 2,
    ]
    # One that has failed is followed by another, one that does not end is the last.
    begun = "begun persistent"
    assert log == [begun, "a", "b", "ended", begun, "c", "d", "e", "ended"]


def test_clusters_are_tried_as_clusters(kernel_row, monkeypatch):
    scan = dataclasses.replace(recurrence.BACKENDS["scan"], name="persistent-cluster")
    monkeypatch.setitem(recurrence.BACKENDS, "persistent-cluster", scan)
    begun = []

    def child(backend):
        begun.append(backend)
        raise EOFError("no GPU")

    trials = {name: ours_persistent.Trials(name) for name in ours_persistent.TRIALS}
    monkeypatch.setattr(ours_persistent, "TRIALS", trials)
    monkeypatch.setattr(ours_persistent, "Child", child)
    for name in ("jaxrnn-cluster", "jaxrnn-kernel"):
        with pytest.raises(ours_persistent.TrialError, match="it failed with no GPU"):
            start(name, kernel_row)
    assert begun == ["persistent-cluster", "persistent"]


@pytest.mark.parametrize("backend", ["persistent", "persistent-cluster"])
def test_a_child_runs_rows_and_may_fail_or_not_end(backend, monkeypatch):
    child = ours_persistent.Child(backend)
    assert f"serve({backend!r})" in str(child.process.args)
    row = replace(LSTM, precision="bfloat16", hidden_size=64, mode="gradients")
    expected = "it failed with UnsupportedError: it needs an NVIDIA GPU, the device is a CPU"
    goals = replace(row, more_goals=(Goal("torch", 1.0),), torch_in=("float32",))
    assert [child.run(row), child.run(goals)] == [expected] * 2
    monkeypatch.setattr(ours_persistent, "TRIAL_SECONDS", 0.0)
    with pytest.raises(TimeoutError, match="it did not end within 0 s"):
        child.run(row)
    monkeypatch.setattr(ours_persistent, "TRIAL_SECONDS", 60.0)
    assert child._next(60.0) == {"refused": expected}
    child.process.kill()
    child.process.wait()
    with pytest.raises(EOFError, match="exit code -9"):
        child.run(row)
    child.end()
    assert child.errors.closed


def test_what_a_child_runs_is_the_row(kernel_row, monkeypatch, capsys):
    calls = []
    made = Session(lambda: calls.append("call"), check=lambda: calls.append("check"))  # type: ignore[arg-type,func-returns-value]

    def by_name(backend, workload):
        calls.append((backend, workload))
        if workload.cell == "gru":
            raise ArithmeticError("no\nsuch row")
        return made

    monkeypatch.setattr(ours, "by_name", by_name)
    rows = [kernel_row, replace(kernel_row, cell="gru")]
    plain = [dataclasses.asdict(row) for row in rows]
    lines = [json.dumps({k: v for k, v in d.items() if type(v) is not tuple}) + "\n" for d in plain]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(lines)))
    ours_persistent.serve("persistent-cluster")
    said = [json.loads(line)["refused"] for line in capsys.readouterr().out.splitlines()]
    assert said == ["", "", "it failed with ArithmeticError: no such row"]
    first, second = (("persistent-cluster", row) for row in rows)
    assert calls == [first, "check", "call", second]


@pytest.mark.parametrize("peer", ["flax", "keras", "equinox"])
def test_what_a_peer_lacks_is_said(peer):
    with pytest.raises(UnsupportedError, match="no projection"):
        start(peer, ROWS["projection"])
    with pytest.raises(UnsupportedError, match="no sampling"):
        start(peer, replace(LSTM, mode="generate"))


def test_a_step_that_is_timed_trains():
    row = Workload("tiny", "rnn", 5, 3, 7, 6, 2, output_size=7, is_text=True, lr=0.01)
    _, targets = data(row)
    for name in ("torch", "flax"):
        session = start(name, row)
        assert session.check is not None
        y = np.asarray(session.check()[0], np.float64)
        log_p = y - np.log(np.exp(y).sum(-1, keepdims=True))
        expected = -np.take_along_axis(log_p, targets[0][..., None], -1).mean()
        found = [session.call() for _ in range(20)]
        assert found[0] == pytest.approx(expected, rel=1e-5)
        assert found[-1] < found[0] - 0.05
        assert (session.compile_s > 0) == (name == "flax")
        assert (session.peak_memory_mib() or 0) > 0 or name == "torch"


def test_dropout_takes_part_in_training_and_not_in_the_check():
    row = Workload("tiny", "rnn", 5, 3, 4, 6, 2, output_size=2, dropout=0.9)
    plain = start("torch", replace(row, dropout=0.0))
    assert plain.check is not None
    expected, _ = plain.check()
    loss = plain.call()
    for name in ("torch", "flax"):
        session = start(name, row)
        assert session.check is not None
        for _ in range(2):
            np.testing.assert_allclose(session.check()[0], expected, rtol=1e-5, atol=1e-6)
        assert abs(session.call() - loss) > 1e-4


def test_text_is_written_in_as_many_steps_as_are_counted():
    row = Workload("tiny", "lstm", 150, 1, 7, 6, output_size=7, is_text=True, mode="generate")
    theirs = start("torch", row)
    assert (theirs.steps_per_call, len(theirs.call())) == (100, 100)
    ours = start("jaxrnn", row)
    assert (ours.steps_per_call, sum(map(len, ours.call()))) == (150, 150)
    assert ours.compile_s > 0


# --- peers that can't be run here


def test_cudnn_has_its_weights_in_torch_order():
    row = replace(LSTM, num_layers=2)
    flat = jax_cudnn.flat(row)
    w_ih, w_hh, b_ih, b_hh = jax_cudnn.rnn.unpack_lstm_weights(
        jax.numpy.asarray(flat), 4, 6, 2, False
    )
    named = parameters(row)
    for k in range(2):
        for part, name in ((w_ih, "weight_ih"), (w_hh, "weight_hh"), (b_ih, "bias_ih")):
            np.testing.assert_array_equal(part[k], named[f"rnn.{name}_l{k}"])
        np.testing.assert_array_equal(b_hh[k], 0)
    back = jax_cudnn.unflat(row, flat)
    assert set(back) == set(named)
    assert all(np.array_equal(back[name], named[name]) for name in named)


@pytest.mark.parametrize("name", ["jax-rnn", "flashrnn", "haste"])
def test_a_peer_that_is_for_gpus_says_so(name):
    if name != "jax-rnn":
        with pytest.raises(UnsupportedError, match="is not installed"):
            start(name, LSTM)
        with pytest.raises(UnsupportedError, match="needs an NVIDIA GPU"):
            getattr(gpu_kernels, name)(LSTM)
        return
    with pytest.raises(UnsupportedError, match="needs an NVIDIA GPU"):
        start(name, LSTM)
    with pytest.raises(UnsupportedError, match="the LSTM alone"):
        start(name, ROWS["gru"])


def flashrnn_as_documented(wx, r, b, *, function, backend, dtype):
    """NX-AI/flashrnn's equations: Wx (B, T, G, N, D), R (G, N, D, P), b (G, N, D)."""
    assert (backend, dtype, wx.dtype) == ("cuda", "float32", torch.float32)
    h = c = torch.zeros(len(wx), *wx.shape[3:])
    states = []
    for t in range(wx.shape[1]):
        x, y = wx[:, t], torch.einsum("gndp,bnp->bgnd", r, h)
        if function == "gru":
            g = y[:, 0] + b[0]
            reset = torch.sigmoid(x[:, 0] + y[:, 1] + b[1])
            z = torch.sigmoid(x[:, 1] + y[:, 2] + b[2])
            h = z * h + (1 - z) * torch.tanh(x[:, 2] + b[3] + reset * g)
        elif function == "lstm":
            i, f, g, o = (x + y + b).unbind(1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            h = torch.tanh(x + y + b)[:, 0]
        states.append(torch.stack([h, c]))
    return torch.stack(states, 2), states[-1]


class HasteAsDocumented(torch.nn.Module):
    """lmnt-com/haste's layers: kernels (I, G*H), gates i, g, f, o."""

    gates = 4
    kernel: Any
    recurrent_kernel: Any
    bias: Any
    recurrent_bias: Any

    def __init__(self, input_size, hidden_size, batch_first):
        super().__init__()
        assert batch_first
        width = self.gates * hidden_size
        for name, rows in (("kernel", input_size), ("recurrent_kernel", hidden_size)):
            setattr(self, name, torch.nn.Parameter(torch.randn(rows, width)))
        for name in ("bias", "recurrent_bias")[: 2 if self.gates == 3 else 1]:
            setattr(self, name, torch.nn.Parameter(torch.randn(width)))

    def start(self, x):
        return torch.zeros(len(x), self.recurrent_kernel.shape[0])

    def forward(self, x) -> Any:
        h = c = self.start(x)
        outputs = []
        for t in range(x.shape[1]):
            gates = x[:, t] @ self.kernel + h @ self.recurrent_kernel + self.bias
            i, g, f, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs, 1), (h, c)


class HasteGRUAsDocumented(HasteAsDocumented):
    """Gates z, r, h; the reset gate after the product."""

    gates = 3

    def forward(self, x):
        h = self.start(x)
        outputs = []
        for t in range(x.shape[1]):
            xz, xr, xg = (x[:, t] @ self.kernel + self.bias).chunk(3, 1)
            hz, hr, hg = (h @ self.recurrent_kernel + self.recurrent_bias).chunk(3, 1)
            z, r = (xz + hz).sigmoid(), (xr + hr).sigmoid()
            h = z * h + (1 - z) * torch.tanh(xg + r * hg)
            outputs.append(h)
        return torch.stack(outputs, 1), h


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("name", ["flashrnn", "haste"])
def test_gpu_adapters_agree_with_the_documented_equations(name, cell, monkeypatch):
    row = replace(LSTM, cell=cell, num_layers=2)
    if (name, cell) == ("haste", "rnn"):
        with pytest.raises(UnsupportedError, match="no rnn cell"):
            gpu_kernels.haste(row)
        return
    fakes = types.SimpleNamespace(
        flashrnn=flashrnn_as_documented, LSTM=HasteAsDocumented, GRU=HasteGRUAsDocumented
    )
    for package in ("flashrnn", "haste_pytorch"):
        monkeypatch.setitem(sys.modules, package, fakes)
    monkeypatch.setattr(gpu_kernels, "_cuda", lambda *_: torch.device("cpu"))
    found = results.difference(start("torch", row), getattr(gpu_kernels, name)(row))
    assert found is not None
    assert found.size < 1e-5


def test_what_torch_compile_can_not_do_is_said_in_its_words(monkeypatch):
    def broken(net, fullgraph):
        assert fullgraph

        def run(x, state):
            raise RuntimeError("no compiler is found\nand so on")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UnsupportedError) as error:
        torch_nn.compiled(LSTM)
    assert str(error.value) == "torch.compile raises RuntimeError: no compiler is found"


def test_torch_compile_is_compared_as_it_was_before_it_trained(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    row = replace(ROWS["lstm"], mode="train", lr=0.1)
    found = results.difference(start("jaxrnn", row), torch_nn.compiled(row))
    assert found is not None
    assert found.size < 1e-5


def test_remat_changes_our_step_in_memory_alone():
    row = Workload("tiny", "lstm", 144, 3, 7, 64, output_size=7, is_text=True)
    plain, chunked = start("jaxrnn", row), start("jaxrnn", replace(row, remat=True))
    losses = [plain.call(), chunked.call()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    memory = [session.peak_memory_mib() for session in (plain, chunked)]
    assert memory[0] is not None
    assert memory[1] is not None
    assert memory[1] < 0.5 * memory[0]

"""torch.nn and torch.optim as the lesson has them, eager and through torch.compile."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils import rnn as packing

from jaxrnn.bench.peers import Arrays, Session, UnsupportedError
from jaxrnn.bench.workloads import Workload, data, lengths, parameters
from jaxrnn.cli import num_cores

WRITTEN = 100  # symbols a call: a text's cost is that of a symbol, times their number


HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def device() -> torch.device:
    """Where JAX computes too, with as many threads.

    Raises UnsupportedError where torch has no such device.
    """
    platform = jax.default_backend()
    if platform == "cpu":
        torch.set_num_threads(num_cores())
        return torch.device("cpu")
    if platform != "gpu" or not torch.cuda.is_available():
        raise UnsupportedError(f"torch sees no {platform.upper()} here")
    return torch.device("cuda")


class Net(nn.Module):
    """Recurrent layers, dropout, and a decoder where there is one; batch first."""

    def __init__(self, workload: Workload, rnn: nn.Module):
        super().__init__()
        self.rnn, self.workload = rnn, workload
        self.dropout = nn.Dropout(workload.dropout)
        if workload.output_size:
            self.decoder = nn.Linear(workload.width, workload.output_size)
            for name in ("weight", "bias"):
                value = torch.from_numpy(parameters(workload)[f"decoder.{name}"])
                getattr(self.decoder, name).data.copy_(value)
        self.lengths = torch.from_numpy(lengths(workload)).long() if workload.max_length else None

    def forward(self, x, state):
        """(B, T[, I]) and the state to the outputs and the state."""
        if self.workload.is_text:
            x = functional.one_hot(x, self.workload.input_size).float()
        if self.lengths is None:
            y, state = self.rnn(x, state)
        else:
            x = packing.pack_padded_sequence(x, self.lengths, True, enforce_sorted=False)
            y, state = self.rnn(x, state)
            steps = self.workload.num_steps
            y, _ = packing.pad_packed_sequence(y, batch_first=True, total_length=steps)
        return (self.decoder(self.dropout(y)) if self.workload.output_size else y), state


def layers_of(workload: Workload) -> nn.Module:
    """nn.LSTM, nn.GRU or nn.RNN with the workload's parameters."""
    options: dict[str, Any] = {"proj_size": workload.proj_size} if workload.proj_size else {}
    if workload.num_layers > 1:
        options["dropout"] = workload.dropout
    sizes = (workload.input_size, workload.hidden_size, workload.num_layers)
    module = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[workload.cell]
    rnn = module(*sizes, batch_first=True, **options)
    rnn.load_state_dict(
        {
            name.removeprefix("rnn."): torch.from_numpy(array)
            for name, array in parameters(workload).items()
            if name.startswith("rnn.")
        }
    )
    return rnn


def gradients(rnn: nn.Module) -> Arrays:
    """Of nn.LSTM's, nn.GRU's or nn.RNN's own parameters."""
    return {f"rnn.{name}": as_array(p.grad) for name, p in rnn.named_parameters()}


def as_array(tensor: torch.Tensor | None) -> np.ndarray:
    """A copy on the CPU, in float32 at least."""
    assert tensor is not None
    wide = tensor.detach().cpu()
    return (wide.float() if wide.dtype in HALF.values() else wide).numpy().copy()


def eager(workload: Workload) -> Session:
    """torch.nn as it is."""
    place = device()
    return session(workload, layers_of(workload).to(place), gradients, place)


def on_device(
    workload: Workload, place: torch.device, own: list[torch.Tensor], session: Session
) -> Session:
    """The same, of a CUDA device with TF32 as the workload says and the peak of the first call.

    Both belong to the process, and several sessions of torch take turns. ``own``: what the session
    holds before its first call.
    """
    if place.type != "cuda":
        return session
    peak: list[float] = []

    def call() -> Any:
        use_tf32(workload.precision == "tf32")
        if peak:
            return session.call()
        others = torch.cuda.memory_allocated() - sum(tensor.nbytes for tensor in own)
        torch.cuda.reset_peak_memory_stats()
        found = session.call()
        peak.append((torch.cuda.max_memory_allocated() - others) / 2**20)
        return found

    def check() -> Any:
        use_tf32(workload.precision == "tf32")
        assert session.check is not None
        return session.check()

    return dataclasses.replace(
        session, call=call, check=check, peak_memory_mib=lambda: peak[0] if peak else None
    )


def use_tf32(allowed: bool) -> None:
    """In products of float32, cuDNN's too."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def compiled(workload: Workload) -> Session:
    """Through ``torch.compile(fullgraph=True)``, its experimental tracing of nn.LSTM allowed."""
    if workload.mode == "generate":
        raise UnsupportedError("the lesson's loop is no graph")
    place = device()
    torch._dynamo.config.allow_rnn = True
    made = session(workload, layers_of(workload).to(place), gradients, place, torch.compile)
    times = []
    try:
        assert made.check is not None
        found = made.check()  # has another graph; and before the calls, which train
        for _ in range(2):
            started = time.perf_counter()
            made.call()
            times.append(time.perf_counter() - started)
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise UnsupportedError(f"torch.compile raises {type(error).__name__}: {line}") from error
    return Session(
        *(made.call, made.steps_per_call, lambda: found),
        compile_s=max(times[0] - times[1], 0.0),
        peak_memory_mib=made.peak_memory_mib,
    )


def session(
    workload: Workload,
    rnn: nn.Module,
    grads_of: Callable[[nn.Module], Arrays],
    place: torch.device,
    compiler: Callable[..., Any] | None = None,
) -> Session:
    """The model around ``rnn``, a module (x, state) -> (y, state) that holds its parameters.

    ``grads_of`` gives its gradients under torch's names.
    """
    half = HALF.get(workload.precision)
    mixed = torch.autocast(place.type, half, enabled=False)
    if half and workload.mode not in ("forward", "gradients"):  # Adam's parameters are of 32 bits
        if workload.precision == "float16":
            raise UnsupportedError("training in float16 needs scaled losses, which no row has")
        mixed, half = torch.autocast(place.type, half), None
    net = Net(workload, rnn).to(place, half)
    compiled_net: Any = compiler(net, fullgraph=True) if compiler else net

    def run(x, state):
        with mixed:
            y, state = compiled_net(x, state)
        return y.float() if y.dtype == torch.bfloat16 and half is None else y, state

    def first_state(batch_size: int) -> Any:
        size = (workload.num_layers, batch_size)
        h = torch.zeros(*size, workload.width, device=place, dtype=half)
        return (h, h.new_zeros(*size, workload.hidden_size)) if lstm else h

    lstm = workload.cell == "lstm"
    x, targets = (torch.from_numpy(np.ascontiguousarray(part[0])) for part in data(workload))
    if workload.is_text:
        x, targets = x.long(), targets.long()
    x, targets = x.to(place, None if workload.is_text else half), targets.to(place)
    zeros = first_state(workload.batch_size)

    def loss_of(y):
        if workload.mode == "gradients":
            return (y.float() * targets).sum() / (y.shape[0] * y.shape[1]) ** 0.5
        if workload.is_text:
            return functional.cross_entropy(y.flatten(0, 1), targets.flatten())
        return functional.mse_loss(y, targets)

    def forward() -> Any:
        net.eval()
        with torch.no_grad():
            y, _ = run(x, zeros)
        if place.type == "cuda":
            torch.cuda.synchronize()
        return y

    def check():
        if workload.mode == "forward":
            return as_array(forward()), {}
        dropouts = [(m, m.p) for m in net.modules() if isinstance(m, nn.Dropout)]
        dropouts += [(m, m.dropout) for m in net.modules() if isinstance(m, nn.RNNBase)]
        for module, _ in dropouts:  # off, yet in training mode: cuDNN has no backward in the other
            setattr(module, "p" if isinstance(module, nn.Dropout) else "dropout", 0.0)
        net.train()
        net.zero_grad()
        y, _ = run(x, zeros)
        loss_of(y).backward()
        grads = grads_of(rnn)
        if workload.output_size:
            grads |= {
                f"decoder.{name}": as_array(p.grad) for name, p in net.decoder.named_parameters()
            }
        net.zero_grad()
        for module, p in dropouts:
            setattr(module, "p" if isinstance(module, nn.Dropout) else "dropout", p)
        net.train(workload.mode in ("train", "gradients"))
        return as_array(y), grads

    def made(call: Callable[[], Any], steps_per_call: int = 1) -> Session:
        own = [*net.parameters(), x, targets, *(zeros if lstm else [zeros])]
        return on_device(workload, place, own, Session(call, steps_per_call, check))

    if workload.mode == "generate":
        net.eval()
        count = min(WRITTEN, workload.num_steps)

        def write() -> list[int]:  # the lesson's loop
            state, symbol, written = first_state(1), 0, []
            for _ in range(count):
                with torch.no_grad():
                    logits, state = net(torch.tensor([[symbol]], device=place), state)
                    p, top = functional.softmax(logits[0, 0], dim=0).topk(5)
                chances = p.cpu().numpy()
                symbol = int(np.random.choice(top.cpu().numpy(), p=chances / chances.sum()))
                written.append(symbol)
            return written

        return made(write, count)
    if workload.mode == "forward":
        return made(forward)

    net.train()
    if workload.mode == "gradients":

        def backward() -> None:
            net.zero_grad()
            y, _ = run(x, zeros)
            loss_of(y).backward()
            if place.type == "cuda":
                torch.cuda.synchronize()

        return made(backward)
    adam = torch.optim.Adam(net.parameters(), lr=workload.lr)
    box: list[Any] = [zeros]

    def train() -> float:
        adam.zero_grad()
        y, state = run(x, box[0])
        box[0] = tuple(s.detach() for s in state) if lstm else state.detach()
        loss = loss_of(y)
        loss.backward()
        if workload.clip:
            clip_grad_norm_(net.parameters(), workload.clip)
        adam.step()
        return loss.item()  # waits for all that was queued before

    return made(train)

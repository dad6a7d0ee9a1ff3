"""Optimizer state across the border: the same bits, and the same training on either side."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from tolerances import assert_close

from jaxrnn import train_step, training
from jaxrnn.config import CharConfig, SineConfig
from jaxrnn.errors import InputError
from jaxrnn.models import split
from jaxrnn.models.forecaster import Forecaster
from jaxrnn.tasks import TASKS
from torch_compat import convert
from torch_compat.optimizers import (
    from_torch_optimizer,
    make_torch_optimizer,
    to_torch_optimizer,
)

I, O, H = 4, 2, 3
DTYPES = ("float64", "float32", "bfloat16")
MOMENTS = {"mu": "exp_avg", "nu": "exp_avg_sq", "trace": "momentum_buffer"}
RULES = {
    "adam": {"optimizer": "adam"},
    "adam-decay": {"optimizer": "adam", "weight_decay": 0.1},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "sgd": {"optimizer": "sgd", "momentum": 0.8, "weight_decay": 0.1},
}


def build(dtype="float64"):
    """A model with its parameters from NumPy, which compiles nothing, and its twin."""

    def make():
        return Forecaster(I, O, cell="gru", hidden_size=H, rngs=nnx.Rngs(0), param_dtype=dtype)

    graph, params, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    model = nnx.merge(graph, random_like(params, dtype), rest)
    return model, convert.to_torch(model)


def random_like(tree, dtype=None, seed=1):
    """Random positive numbers in place of every floating-point leaf."""
    rng = np.random.default_rng(seed)

    def fill(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jnp.asarray(rng.uniform(0.1, 1, size=leaf.shape), dtype or leaf.dtype)

    return jax.tree.map(fill, tree)


def counted(state, count):
    """The state with every count set."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.int32(count), state
    )


def bits(value):
    if isinstance(value, torch.Tensor):
        return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return np.asarray(value).tobytes()


def assert_same_bits(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype, bits(a)) == (b.shape, b.dtype, bits(b))


def two_groups(cls, twin, **options):
    """A torch optimizer over the parameters backwards, in two groups."""
    params = list(twin.parameters())[::-1]
    groups = [{"params": params[:2], "lr": 0.5}, {"params": params[2:]}]
    return cls(groups, lr=0.25, **options)


# --- the same bits ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_every_moment_is_its_parameters_both_ways(rule, dtype):
    model, twin = build(dtype)
    _, params = split(model)
    config = SineConfig(**RULES[rule])
    zero = train_step.optimizer(config).init(params)
    state = counted(random_like(zero), 7)
    optimizer = make_torch_optimizer(config, twin)
    assert to_torch_optimizer(state, twin, optimizer) is optimizer
    node: Any = next(part for part in state if len(part))
    for name, param in twin.named_parameters():
        own = optimizer.state[param]
        assert own.keys() == {MOMENTS[f] for f in node._fields if f != "count"} | (
            {"step"} if rule != "sgd" else set()
        )
        assert rule == "sgd" or (own["step"] == 7 and own["step"].dtype == torch.float32)
        for field in set(node._fields) - {"count"}:
            tensor = own[MOMENTS[field]]
            assert tensor.dtype == param.dtype
            assert bits(tensor) == bits(getattr(node, field)[name])
    assert_same_bits(from_torch_optimizer(optimizer, twin, zero), state)
    assert_same_bits(from_torch_optimizer(optimizer, twin, jax.eval_shape(lambda: zero)), state)


def test_the_state_of_torch_comes_back_the_same_and_apart():
    _, twin = build("float32")
    optimizer = two_groups(torch.optim.AdamW, twin, weight_decay=0.1)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for param in twin.parameters():
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()
    params = {k: jnp.array(p.detach().numpy()) for k, p in twin.named_parameters()}
    state = from_torch_optimizer(optimizer, twin, optax.adamw(0.1).init(params))
    assert state[0].count == 3
    other = two_groups(torch.optim.AdamW, twin, weight_decay=0.1)
    to_torch_optimizer(state, twin, other)
    assert [group["lr"] for group in other.param_groups] == [0.5, 0.25]
    for param in twin.parameters():
        for key, value in optimizer.state[param].items():
            assert bits(other.state[param][key]) == bits(value)
    before = jax.tree.map(np.array, state)
    for held in (optimizer, other):
        held.step()
    assert_same_bits(state, before)  # in memory of its own


SHAPES = {
    "flat": lambda model: split(model)[1],
    "nested": lambda model: nnx.to_pure_dict(nnx.state(model, nnx.Param)),
    "nnx": lambda model: nnx.state(model, nnx.Param),
}
CHAINS = {
    "adam": lambda: optax.adam(0.1),
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(0.1, 9)),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
    "alone": lambda: optax.scale_by_adam(),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_chain_around_one_adam_over_any_tree_of_parameters(shape, chain):
    model, twin = build()
    zero: Any = CHAINS[chain]().init(SHAPES[shape](model))
    state = counted(random_like(zero), 4)
    optimizer = to_torch_optimizer(state, twin, two_groups(torch.optim.Adam, twin))
    exp_avg = optimizer.state[twin.get_parameter("rnn.weight_hh_l0")]["exp_avg"]
    (mu,) = [
        leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
        if "mu" in (text := jax.tree_util.keystr(path)) and "weight_hh_l0" in text
    ]
    assert bits(exp_avg) == bits(mu)
    assert_same_bits(from_torch_optimizer(optimizer, twin, zero), state)


@pytest.mark.parametrize("rule", ["adamw", "sgd"])
def test_an_optimizer_that_has_not_stepped_is_the_zero_state(rule):
    model, twin = build()
    config = SineConfig(**RULES[rule])
    zero = train_step.optimizer(config).init(split(model)[1])
    like = counted(random_like(zero), 5)
    assert_same_bits(from_torch_optimizer(make_torch_optimizer(config, twin), twin, like), zero)


def test_a_schedule_beside_sgd_takes_the_count_it_is_given():
    model, twin = build()
    schedule = optax.linear_schedule(0.1, 0.0, 9)
    zero = optax.sgd(schedule, momentum=0.9, nesterov=True).init(split(model)[1])
    state = counted(random_like(zero), 6)
    sgd = torch.optim.SGD(twin.parameters(), momentum=0.9, nesterov=True)
    optimizer = to_torch_optimizer(state, twin, sgd)
    assert_same_bits(from_torch_optimizer(optimizer, twin, zero, count=6), state)
    with pytest.raises(InputError, match="SGD doesn't count: give count="):
        from_torch_optimizer(optimizer, twin, zero)


def test_nesterov_is_the_same_equation_over_the_same_buffer():
    model, twin = build()
    params: Any = split(model)[1]
    transform = optax.sgd(0.1, momentum=0.9, nesterov=True)
    state: Any = random_like(transform.init(params))
    sgd = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    optimizer = to_torch_optimizer(state, twin, sgd)
    for seed in (2, 3):
        grads: Any = random_like(params, seed=seed)
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name, param in twin.named_parameters():
            param.grad = convert.as_tensor(np.asarray(grads[name]))
        optimizer.step()
    for name, param in twin.named_parameters():
        assert_close(param.detach(), params[name], what=name)


@pytest.mark.parametrize("count", [2**24 - 1, 2**24 + 1])
def test_a_count_is_kept_exactly(count):
    model, twin = build()
    state: Any = counted(random_like(optax.adam(0.1).init(split(model)[1])), count)
    optimizer = to_torch_optimizer(state, twin, torch.optim.Adam(twin.parameters()))
    assert from_torch_optimizer(optimizer, twin, state)[0].count == count
    for param in twin.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert from_torch_optimizer(optimizer, twin, state)[0].count == count + 1


# --- the same training ---

TEXT = "the cat sat on the mat; a dog ate the hat. " * 4
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "char-lstm-adamw": (
        "char",
        {**RULES["adamw"], "cell": "lstm", "schedule": "constant", "warmup_steps": 4},
    ),
    "char-gru-adam": ("char", {**RULES["adam"], "cell": "gru", "schedule": "constant"}),
    "series-rnn-sgd": ("sine", {**RULES["sgd"], "cell": "rnn"}),
    "char-rnn-adamw-float32": ("char", {**RULES["adamw"], "cell": "rnn", "dtype": "float32"}),
}
STEPS, SWITCH = 9, 4


@dataclasses.dataclass
class At:
    """Where training is, in JAX's arrays."""

    params: Any
    moments: Any
    carry: Any
    losses: list[float]


class Both:
    """One training, each stretch of which runs in either framework."""

    def __init__(self, tmp_path, task, options):
        (tmp_path / "text.txt").write_text(TEXT)
        small = {"dtype": "float64", "hidden_size": 5, "seq_len": 6, "clip": 0.05, **options}
        if task == "char":
            file = str(tmp_path / "text.txt")
            small |= {"data": file, "embedding_size": 0, "batch_size": 3, "warmup_steps": 0} | small
            self.config = CharConfig(num_layers=2, **small)
        else:
            self.config = SineConfig(**small)
        self.task, self.data = TASKS[task].load(self.config)
        self.skeleton, _, state = train_step.initial_state(self.task, self.config)
        self.rate = train_step.learning_rate(self.config, STEPS)
        step = train_step.make_step(self.task.loss, self.skeleton, self.config, STEPS)
        batches = training.stack_batches(self.data, 0, 1, 1)
        self.step = step.lower(state, *batches, np.int32(1)).compile()
        self.start = At(state.params, state.moments, state.carry, [])

    def jax(self, at: At, until: int) -> At:
        first = len(at.losses)
        state = train_step.TrainState(jnp.int32(first), at.params, at.moments, at.carry)
        state, losses = jax.tree.map(jnp.array, state), list(at.losses)
        for step in range(first, until):
            batches = training.stack_batches(self.data, step, 1, 1)
            state, metrics = self.step(state, *batches, np.int32(1))
            assert metrics.grad_norm[0] > self.config.clip
            losses.append(float(metrics.loss[0]))
        return At(state.params, state.moments, state.carry, losses)

    def torch(self, at: At, until: int) -> At:
        twin: Any = convert.to_torch(self.skeleton.merge(at.params)).train()
        optimizer = make_torch_optimizer(self.config, twin)
        to_torch_optimizer(at.moments, twin, optimizer)
        is_tuple, losses = isinstance(at.carry, tuple), list(at.losses)
        carry: Any = jax.tree.map(lambda c: convert.as_tensor(np.asarray(c)), at.carry)
        for step in range(len(losses), until):
            batch = self.data.train.batch_at(step)
            carry = None if batch.starts else carry
            inputs, targets = torch.tensor(batch.inputs), torch.tensor(batch.targets)
            if self.task.name == "char":
                logits, carry = twin(inputs, carry)
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), targets.long().flatten()
                )
            else:
                dtype = twin.decoder.weight.dtype
                prediction, carry = twin(inputs.to(dtype), carry)
                loss = torch.nn.functional.mse_loss(prediction, targets.to(dtype))
            carry = tuple(c.detach() for c in carry) if is_tuple else carry.detach()
            for group in optimizer.param_groups:
                group["lr"] = float(self.rate(step))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), self.config.clip)
            optimizer.step()
            losses.append(loss.item())
        params = {k: jnp.array(convert.as_array(p)) for k, p in twin.named_parameters()}
        carry = jax.tree.map(lambda c: jnp.array(convert.as_array(c)), carry)
        moments = from_torch_optimizer(optimizer, twin, self.start.moments)
        return At({k: params[k] for k in at.params}, moments, carry, losses)


@pytest.mark.parametrize("name", CASES)
def test_training_goes_on_in_the_other_framework(tmp_path, name):
    both = Both(tmp_path, *CASES[name])
    ends = {
        "jax": both.jax(both.start, STEPS),
        "torch": both.torch(both.start, STEPS),
        "jax, torch": both.torch(both.jax(both.start, SWITCH), STEPS),
        "torch, jax": both.jax(both.torch(both.start, SWITCH), STEPS),
    }
    dtype = both.config.dtype
    expected = ends.pop("jax")
    assert len(set(expected.losses)) == STEPS
    for way, end in ends.items():
        assert jax.tree.structure(end) == jax.tree.structure(expected)
        assert_close(end.losses, expected.losses, dtype, f"losses of {way}")
        for what in ("params", "moments", "carry"):
            for (path, got), leaf in zip(
                jax.tree_util.tree_flatten_with_path(getattr(end, what))[0],
                jax.tree.leaves(getattr(expected, what)),
                strict=True,
            ):
                where = f"{what}{jax.tree_util.keystr(path)} of {way}"
                assert got.dtype == leaf.dtype, where
                assert_close(got, leaf, dtype, where)


# --- what is refused ---


def refused(match, state=None, optimizer=None, twin=None):
    """The message of both directions, in each of which the error must be raised."""
    model, own = build()
    twin = own if twin is None else twin
    state = optax.adam(0.1).init(split(model)[1]) if state is None else state
    optimizer = torch.optim.Adam(twin.parameters()) if optimizer is None else optimizer
    with pytest.raises(InputError, match=match):
        to_torch_optimizer(state, twin, optimizer)
    with pytest.raises(InputError, match=match):
        from_torch_optimizer(optimizer, twin, state)


def test_what_torch_alone_has_is_refused():
    _, twin = build()
    params = list(twin.parameters())
    refused("amsgrad has no equal", optimizer=torch.optim.Adam(params, amsgrad=True), twin=twin)
    refused("maximize has no equal", optimizer=torch.optim.AdamW(params, maximize=True), twin=twin)
    groups = [{"params": params[:1]}, {"params": params[1:], "amsgrad": True}]
    refused("amsgrad has no equal", optimizer=torch.optim.Adam(groups), twin=twin)
    refused("RMSprop'>, expected torch.optim's", optimizer=torch.optim.RMSprop(params), twin=twin)
    refused("NAdam'>, expected torch.optim's", optimizer=torch.optim.NAdam(params), twin=twin)
    sgd = torch.optim.SGD(params, momentum=0.9, dampening=0.5, maximize=True)
    trace = optax.trace(0.9).init({k: jnp.array(p.detach()) for k, p in twin.named_parameters()})
    refused("dampening has no equal.*maximize has no equal", trace, sgd, twin=twin)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: optax.sgd(0.1, momentum=0.9), "holds 0 ScaleByAdamState and TraceState"),
        (lambda: optax.sgd(0.1), "holds 0 ScaleByAdamState, expected one"),
        (lambda: optax.chain(optax.adam(0.1), optax.adam(0.1)), "holds 2 ScaleByAdamState"),
        (lambda: optax.amsgrad(0.1), r"0 ScaleByAdamState and \[0\]\.count.*nu_max"),
        (
            lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
            r"1 ScaleByAdamState and \.count, \.hyperparams\['b1'\]",
        ),
        (lambda: optax.MultiSteps(optax.adam(0.1), 2), r"1 ScaleByAdamState and .*\.acc_grads"),
    ],
)
def test_other_states_of_optax_are_refused(make, match):
    model, _ = build()
    refused(match, make().init({"decoder.bias": split(model)[1]["decoder.bias"]}))


def test_all_that_does_not_fit_is_named_together():
    model, twin = build()
    params = {k: np.asarray(p) for k, p in split(model)[1].items()}
    del params["rnn.bias_ih_l0"]
    params["rnn.weight_hh_l0"] = params["rnn.weight_hh_l0"].T
    params["extra"] = np.zeros(2)
    state = optax.adam(0.1).init(params)
    held = [p for name, p in twin.named_parameters() if name != "decoder.bias"]
    optimizer = torch.optim.Adam([*held, torch.nn.Parameter(torch.zeros(7))])
    parts = [
        r"decoder\.bias is in the param groups 0 times",
        r"a tensor \(7,\) in a param group is not the twin's",
        *(rf"{field}\.rnn\.bias_ih_l0 is missing" for field in ("mu", "nu")),
        r"nu\.rnn\.weight_hh_l0 has shape \(3, 9\), expected \(9, 3\)",
        r"mu\.extra \(2,\) is not expected",
    ]
    for part in parts:
        refused(part, state, optimizer, twin=twin)


def test_a_parameter_twice_in_a_group_is_refused():
    _, twin = build()
    params = list(twin.parameters())
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = torch.optim.Adam([*params, params[0]])
    refused(r"rnn\.weight_ih_l0 is in the param groups 2 times", optimizer=optimizer, twin=twin)


def test_another_dtype_is_refused():
    params = split(build("float32")[0])[1]
    refused(r"nu\.\S+ is float32, the twin's parameter is float64", optax.adam(0.1).init(params))
    params = split(build()[0])[1]
    state = optax.adam(0.1, mu_dtype=jnp.bfloat16).init(params)
    refused(r"mu\.\S+ is bfloat16, the twin's parameter is float64", state)


def test_moments_that_are_not_finite_are_refused():
    model, twin = build()
    state: Any = optax.adam(0.1).init(split(model)[1])
    state[0].nu["decoder.bias"] = jnp.array([1.0, np.inf])
    match = r"nu\.decoder\.bias \(2,\) holds 1 values that are NaN or infinite"
    with pytest.raises(InputError, match=match):
        to_torch_optimizer(state, twin, torch.optim.Adam(twin.parameters()))


def test_counts_that_differ_are_refused():
    model, twin = build()
    adam = optax.adam(optax.constant_schedule(0.1))
    state: Any = adam.init(split(model)[1])
    state = (state[0]._replace(count=jnp.int32(3)), state[1])
    optimizer = torch.optim.Adam(twin.parameters())
    with pytest.raises(InputError, match="schedule's count is 0, Adam's is 3"):
        to_torch_optimizer(state, twin, optimizer)
    assert not optimizer.state  # nothing was written
    with pytest.raises(InputError, match="count is 2, Adam's step is 0"):
        from_torch_optimizer(optimizer, twin, state, count=2)
    twin.get_parameter("decoder.bias").grad = torch.ones(O, dtype=torch.float64)
    optimizer.step()
    match = r"steps differ, optax has one count: \S+ at 0, decoder\.bias at 1"
    with pytest.raises(InputError, match=match):
        from_torch_optimizer(optimizer, twin, state)


def test_hyperparameters_are_those_of_the_options():
    _, twin = build()
    config = SineConfig(optimizer="adamw", weight_decay=0.25, lr=0.1)
    adamw = make_torch_optimizer(config, twin)
    assert type(adamw) is torch.optim.AdamW
    (group,) = adamw.param_groups
    found = [group[key] for key in ("lr", "weight_decay", "betas", "eps")]
    assert found == [float(np.float32(0.1)), 0.25, (0.9, 0.999), 1e-8]
    adam = make_torch_optimizer(SineConfig(optimizer="adam"), twin, lr=0.5)
    assert (type(adam), adam.param_groups[0]["lr"]) == (torch.optim.Adam, 0.5)
    assert adam.param_groups[0]["weight_decay"] == 0
    sgd = make_torch_optimizer(SineConfig(optimizer="sgd", momentum=0.7), twin)
    assert (type(sgd), sgd.param_groups[0]["momentum"]) == (torch.optim.SGD, 0.7)
    assert not sgd.param_groups[0]["nesterov"]

"""The task ``char``: a language model of characters or bytes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxrnn import losses
from jaxrnn.config import MIN_CELLS, CharConfig
from jaxrnn.data import text
from jaxrnn.models import Params, Skeleton
from jaxrnn.models.char_lm import CharLM, generate
from jaxrnn.models.min_blocks import MinCharLM
from jaxrnn.tasks.facts import fact
from jaxrnn.tasks.task import Data, HeldOut, body_options, check_pinned, digest_of, pin


@dataclasses.dataclass(frozen=True)
class CharTask:
    """Character language model: next-symbol cross-entropy in nats."""

    config: CharConfig
    vocabulary: text.Vocabulary

    name: ClassVar[str] = "char"
    monitor: ClassVar[str] = "nats"

    @classmethod
    def from_facts(cls, config: CharConfig, facts: dict[str, Any]) -> CharTask:
        """The task of an existing run."""
        return cls(config, text.Vocabulary.from_dict(fact(facts, "vocabulary")))

    @classmethod
    def load(cls, config: CharConfig, facts: dict[str, Any] | None = None) -> tuple[CharTask, Data]:
        """See ``Task``."""
        check_pinned(facts)
        data = text.load_text(
            config.data,
            config.tokens,
            config.batches,
            config.batch_size,
            config.seq_len,
            config.val_fraction,
            None if facts is None else text.Vocabulary.from_dict(fact(facts, "vocabulary")),
        )
        train_size, val_size = data.train.inputs.size, len(data.val_targets)
        found = {
            "vocabulary": data.vocabulary.to_dict(),
            "digest": digest_of(data.train.inputs, data.train.targets, data.val_targets),
        }
        pin(found, facts, config)
        source = config.data or "the language reference in pydoc_data.topics"
        summary = (
            f"{source}: {train_size:,} {config.tokens} to train on, {val_size:,} to validate, "
            f"{data.vocabulary.size} symbols"
        )
        held_out = HeldOut(data.val_inputs, data.val_targets)
        return cls(config, data.vocabulary), Data(data.train, held_out, found, summary)

    def model(self, rngs: nnx.Rngs) -> CharLM:
        """See ``Task``."""
        make = MinCharLM if self.config.cell in MIN_CELLS else CharLM
        names = ("embedding_size", "embedding_dropout", "input_dropout", "locked_dropout")
        names = (*names, "tie_embeddings")
        own = {name: getattr(self.config, name) for name in names}
        return make(self.vocabulary.size, rngs=rngs, **own, **body_options(self.config))

    def initial_carry(self, model: Any, batch_size: int) -> Any:
        """See ``Task``."""
        return model.rnn.initial_state(batch_size)

    def loss(self, model: CharLM, inputs, targets, state, rngs, step) -> tuple[Array, Any]:
        """Nats, whose gradient is also that of the activations' penalty; see ``Task``."""
        alpha, beta = self.config.activation_reg, self.config.temporal_reg
        if not (alpha or beta):
            logits, state = model(inputs, state, rngs=rngs)
            return losses.cross_entropy(logits, targets), state
        y, state = model.hidden(inputs, state, rngs=rngs)
        dropped = model.dropped(y, rngs)
        nats = losses.cross_entropy(model.output(dropped), targets)
        penalty = losses.activation_penalty(y, dropped, alpha, beta)
        # It adds 0 to the value: a loss is in nats, as a validation is.
        return nats + (penalty - jax.lax.stop_gradient(penalty)), state

    def score(self, model: CharLM, inputs, targets, mask, state) -> tuple[dict[str, Array], Any]:
        """See ``Task``."""
        logits, state = model(inputs, state)
        return {"nats": losses.cross_entropy(logits, targets, mask)}, state

    def metrics(self, sums: dict[str, float], count: int) -> dict[str, float]:
        """Nats and bits a symbol, and perplexity."""
        nats = sums["nats"] / count
        perplexity = math.exp(min(nats, 700))  # more would not fit a float
        return {"nats": nats, "bits": nats / math.log(2), "perplexity": perplexity}

    def prime(self, start: str) -> np.ndarray:
        """Ids of the text to go on from; of a line break (or the first symbol) where it is empty.

        Raises InputError for unknown characters.
        """
        symbols = self.vocabulary.symbols
        line_break = "\n" if self.vocabulary.kind == "bytes" or "\n" in symbols else symbols[0]
        return self.vocabulary.encode(start or line_break, "--prime")

    def preview(self, skeleton: Skeleton[CharLM], params: Params, step: int) -> str:
        """A sample of text after a line break, at temperature 0.8, the same for the same step."""
        length = self.config.preview_length
        if not length:
            return ""
        key = jax.random.fold_in(jax.random.key(self.config.seed), 2**31 + step)
        chunks = generate(
            (skeleton, params), self.prime(""), length=length, key=key, temperature=0.8
        )
        return self.vocabulary.decode(np.concatenate(list(chunks)))

    def illustrate(
        self, skeleton: Skeleton, params: Params, carry: Any, data: Data, path: Path
    ) -> None:
        """Nothing: the samples are text."""

    def read_evaluation(self, path: str) -> HeldOut:
        """See ``Task``."""
        return HeldOut(*text.load_evaluation_text(path, self.vocabulary))

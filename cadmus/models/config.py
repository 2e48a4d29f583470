"""The shape of a model, in HookedTransformerConfig's words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from cadmus.machine import vm
from cadmus.runtime.checks import check_at_least

_BUILT = {
    "act_fn": ("gelu",),
    "normalization_type": ("LN",),
    "positional_embedding_type": ("standard", "rotary"),
}


@dataclass(frozen=True)
class ModelConfig:
    """Field names and meanings of HookedTransformerConfig; what is not here is fixed: pre-LayerNorm, causal.

    Raises ValueError for what is not built and for contradictions.
    """

    n_layers: int = 4
    """Blocks."""

    d_model: int = 128
    """Width of the residual stream."""

    n_heads: int = 4
    """Attention heads of a block; they divide `d_model`."""

    d_head: int = 32
    """Width of a head's queries, keys and values."""

    d_mlp: int = 512
    """Width of the hidden layer of a block's MLP."""

    n_ctx: int = 64
    """Positions that the model can read at most, the marker's included."""

    d_vocab: int = len(vm.VOCAB)
    """Tokens."""

    act_fn: str = "gelu"
    """Activation function of the MLP; GELU alone is built."""

    normalization_type: str = "LN"
    """LayerNorm alone is built."""

    positional_embedding_type: str = "standard"
    """Either "standard" (learned) or "rotary" (Su et al. 2021, arXiv 2104.09864; pairs of dimensions as GPT-NeoX's)."""

    rotary_dim: int | None = None
    """Dimensions of a head that are turned, an even number; None: all of them."""

    rotary_base: float = 10000
    """The wave lengths are 2 pi rotary_base^(2 i / rotary_dim) positions."""

    eps: float = 1e-5
    """What LayerNorm adds to the variance."""

    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx")
        for name in ("eps", "initializer_range"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)} must be above 0")
        for name, built in _BUILT.items():
            if getattr(self, name) not in built:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not built; use {' or '.join(map(repr, built))}")
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads = {self.n_heads} does not divide d_model = {self.d_model}; change one of them")
        self._check_positions()

    def _check_positions(self) -> None:
        """Check the fields of rotary positions, which mean nothing with learned ones."""
        if self.positional_embedding_type != "rotary":
            if self.rotary_dim is not None:
                raise ValueError(f"rotary_dim = {self.rotary_dim} has no meaning with learned positions; leave it None")
            return
        rotary_dim = self.d_head if self.rotary_dim is None else self.rotary_dim
        if rotary_dim % 2 or not 2 <= rotary_dim <= self.d_head:
            raise ValueError(
                f"rotary_dim = {rotary_dim} must be even and from 2 to d_head = {self.d_head}: "
                "dimensions are turned in pairs"
            )
        if self.rotary_base <= 0:
            raise ValueError(f"rotary_base = {self.rotary_base} must be positive; 10000 is usual")

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; those of rotary positions only where they mean something, as in older files."""
        rotary = self.positional_embedding_type == "rotary"
        return {name: value for name, value in asdict(self).items() if rotary or not name.startswith("rotary_")}


@dataclass(frozen=True)
class TransformersConfig:
    """The shape of a model under the names of the transformers library, for libraries that look there: `Model.config`.

    pyvene also asks which module a component means. Entries of this kind make our model known to it, in
    `pyvene.models.intervenable_modelcard` and there in the two dictionaries named here (by layer, then by site):

        type_to_module_mapping[Model] = {"block_output": ("blocks[%s]", "register_forward_hook"), ...}
        type_to_dimension_mapping[Model] = {"block_output": ("hidden_size",), ...}
    """

    hidden_size: int
    """`d_model`."""

    num_hidden_layers: int
    """`n_layers`."""

    num_attention_heads: int
    """`n_heads`."""

    head_dim: int
    """`d_head`."""

    intermediate_size: int
    """`d_mlp`."""

    max_position_embeddings: int
    """`n_ctx`."""

    vocab_size: int
    """`d_vocab`."""

    hidden_act: str
    """`act_fn`."""

    layer_norm_eps: float
    """`eps`."""

    initializer_range: float
    """As there."""

    model_type: str = "cadmus"
    """Of no model of that library."""

    architectures: tuple[str, ...] = ("Model",)
    """The class."""

    @classmethod
    def of(cls, cfg: ModelConfig) -> TransformersConfig:
        """The same shape."""
        return cls(
            hidden_size=cfg.d_model,
            num_hidden_layers=cfg.n_layers,
            num_attention_heads=cfg.n_heads,
            head_dim=cfg.d_head,
            intermediate_size=cfg.d_mlp,
            max_position_embeddings=cfg.n_ctx,
            vocab_size=cfg.d_vocab,
            hidden_act=cfg.act_fn,
            layer_norm_eps=cfg.eps,
            initializer_range=cfg.initializer_range,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

"""Programs as text, their tokens, and completions: HookedTransformer's functions around its tokenizer, for `Model`.

A token is one character, and the marker `.` that every program begins with is what TransformerLens calls BOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadmus.machine import tokens as encoding
from cadmus.machine import vm
from cadmus.models.generation import generate


def as_tokens(tokens: Tensor | np.ndarray | str | Sequence[str], device: torch.device) -> Tensor:
    """What a model is given, int [batch, pos], [pos], or text, as it reads it: int64 [batch, pos] on the device.

    Text gets the marker in front. Raises ValueError for any other number of dimensions, and for numbers that are no
    integers.
    """
    if isinstance(tokens, np.ndarray):
        tokens = torch.from_numpy(tokens)
    if not isinstance(tokens, Tensor):
        texts = [tokens] if isinstance(tokens, str) else tokens
        tokens = torch.from_numpy(encoding.encode([vm.END + text for text in texts]))
    if tokens.dtype == torch.bool or tokens.is_floating_point() or tokens.is_complex():
        raise ValueError(f"tokens are {tokens.dtype}; expected integers: `to_tokens` makes them of text")
    if tokens.ndim not in (1, 2):
        raise ValueError(f"tokens have shape {tuple(tokens.shape)}; expected [batch, pos], or [pos]")
    return (tokens if tokens.ndim == 2 else tokens[None]).to(device, torch.long)


class Text:
    """What `Model` has of HookedTransformer's functions of text."""

    def to_tokens(self: Any, input: str | Sequence[str], prepend_bos: bool = True) -> Tensor:
        """One program or several as the model reads them: int64 [batch, pos], padded with `.`, on the model's device.

        prepend_bos: put the marker in front; leave it away for a part of a program. Raises ValueError for a character
        outside the vocabulary.
        """
        texts = [input] if isinstance(input, str) else list(input)
        ids = encoding.encode([vm.END * prepend_bos + text for text in texts])
        return torch.from_numpy(ids).to(self.device, torch.long)

    def to_string(self, tokens: Tensor | np.ndarray | Sequence) -> str | list[str]:
        """The text of tokens int [pos] (or of a single one), or the texts of [batch, pos]; padding stays."""
        ids = np.asarray(torch.as_tensor(tokens).cpu())
        if ids.ndim > 2:
            raise ValueError(f"tokens have shape {ids.shape}; expected [pos] or [batch, pos]")
        texts = ["".join(vm.VOCAB[i] for i in row) for row in np.atleast_2d(ids)]
        return texts if ids.ndim == 2 else texts[0]

    def to_str_tokens(
        self: Any,
        input: str | Tensor | np.ndarray | Sequence,
        prepend_bos: bool = True,
    ) -> list[str] | list[list[str]]:
        """The tokens of a text, or of tokens int [pos] or [1, pos], as strings; of a list, those of each member.

        prepend_bos: put the marker before a text, as `to_tokens` does.
        """
        if isinstance(input, str):
            return list(vm.END * prepend_bos + input)
        if not isinstance(input, Tensor | np.ndarray):
            return [self.to_str_tokens(member, prepend_bos) for member in input]
        ids = torch.as_tensor(input)
        if ids.ndim > 1 and len(ids) > 1:
            raise ValueError(f"tokens have shape {tuple(ids.shape)}; expected [pos] or [1, pos]")
        return list(self.to_string(ids.flatten()))

    def to_single_token(self: Any, string: str) -> int:
        """The id of one character; ValueError for any other text."""
        if len(string) != 1:
            raise ValueError(f"{string!r} is {len(string)} tokens; expected one character of the vocabulary")
        return int(self.to_tokens(string, prepend_bos=False))

    def to_single_str_token(self, int_token: int) -> str:
        """The character with this id."""
        return vm.VOCAB[int_token]

    def get_token_position(
        self: Any,
        single_token: str | int,
        input: str | Tensor,
        mode: str = "first",
        prepend_bos: bool = True,
    ) -> int:
        """Where a token stands in a text, or in tokens int [pos] or [1, pos]: its "first" or "last" position.

        ValueError where it does not occur.
        """
        if mode not in ("first", "last"):
            raise ValueError(f"mode {mode!r} is none of 'first', 'last'")
        ids = self.to_tokens(input, prepend_bos) if isinstance(input, str) else input
        token = self.to_single_token(single_token) if isinstance(single_token, str) else int(single_token)
        places = (ids.flatten() == token).nonzero()[:, 0].tolist()
        if not places:
            raise ValueError(f"the token {vm.VOCAB[token]!r} does not occur in {self.to_string(ids.flatten())!r}")
        return places[0 if mode == "first" else -1]

    def generate(
        self: Any,
        input: str | Sequence[str] | Tensor = "",
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        *,
        prepend_bos: bool = True,
        return_type: str = "input",
        generator: torch.Generator | None = None,
        use_past_kv_cache: bool = True,
        verbose: bool = True,
    ) -> Any:
        """Complete programs, called as HookedTransformer's `generate`; `cadmus.models.generation` says more.

        Args:
            input: texts, or tokens int [batch, pos], the marker first, or [pos].
            max_new_tokens: tokens that a row gets at most.
            stop_at_eos: a row ends at its `.` always; False is refused.
            eos_token_id: that of `.`, which None stands for.
            do_sample: draw tokens; False takes the likeliest.
            top_k: draw from the so many likeliest tokens only.
            top_p: draw only from the fewest tokens whose probabilities sum to this.
            temperature: of what is drawn; 0 takes the likeliest.
            prepend_bos: put the marker before a text.
            return_type: "input" (texts for texts, tokens for tokens), "str", or "tokens".
            generator: draws the tokens; None is PyTorch's own of the CPU.
            use_past_kv_cache: changes nothing: keys and values are kept unless a hook is set, which then sees every
                position in every pass.
            verbose: changes nothing.

        Returns:
            Text or texts with the marker; or tokens int64 [batch, pos'], padded with `.`.

        Raises:
            ValueError: as `generation.generate`, and for what is refused above.
        """
        if not stop_at_eos or eos_token_id not in (None, encoding.PAD):
            raise ValueError(f"a completion ends at its `.`: leave stop_at_eos, and eos_token_id = {encoding.PAD}")
        if return_type not in ("input", "str", "tokens"):
            raise ValueError(f"return_type {return_type!r} is none of 'input', 'str', 'tokens'")
        is_tokens = isinstance(input, Tensor)
        prompts = torch.atleast_2d(input) if isinstance(input, Tensor) else self.to_tokens(input, prepend_bos)
        lengths = [prompts.shape[1]] * len(prompts)
        if not is_tokens:
            texts = [input] if isinstance(input, str) else input
            lengths = [len(text) + prepend_bos for text in texts]
        sampling: dict[str, Any] = {}
        if do_sample and temperature != 0:
            sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
            sampling["generator"] = torch.default_generator if generator is None else generator
        out = generate(self, prompts, torch.tensor(lengths, dtype=torch.long), max_new_tokens, **sampling)
        positions = torch.arange(out.shape[1], device=out.device)
        behind_prompt = positions >= torch.tensor(lengths, device=out.device)[:, None]
        ends = ((out == encoding.PAD) & behind_prompt).cumsum(1)  # `.` so far, the row's own and padding
        out = out[:, : int((ends < 2).sum(1).max())] if len(out) else out
        if return_type == "tokens" or (return_type == "input" and is_tokens):
            return out
        completed = [row[: int((n < 2).sum())] for row, n in zip(out, ends, strict=True)]
        strings = [self.to_string(row) for row in completed]
        return strings[0] if isinstance(input, str) else strings

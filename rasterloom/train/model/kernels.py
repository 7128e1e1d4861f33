"""Fused operators of layers on GPUs: norms, SwiGLU, and Chameleon's rotation with the norms before.

Between matrix products a layer does little with much memory: eager, each operator reads and writes all of it,
and the backward pass keeps what lies between. Here each group of them is one kernel (`triton_kernels`) in
each direction. Sums over tokens are taken in a fixed order: the same inputs give the same bits.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.chameleon import modeling_chameleon

from rasterloom.train.model.attention import packed_attention

_PARTS = 256  # of the tokens, over which gradients of a norm's weights are summed up apart
_TOKENS = 16  # of a head that a program takes at once
_ELEMENTS = 1024  # of the MLP that a program takes
_NORM_EPS = 1e-5  # of Chameleon's norms of queries and keys
ROUNDED_ONCE = "Olmo2"  # whose norms are rounded after the weight, those of the others before it, too


def are_there() -> bool:
    """True if there are a GPU and Triton."""
    return torch.cuda.is_available() and find_spec("triton") is not None


def takes(*tensors: Tensor) -> bool:
    """True if kernels take these tensors: on a GPU, all of one kind."""
    first = tensors[0]
    return all(x.is_cuda and x.dtype == first.dtype for x in tensors)


def fuse(lm: nn.Module) -> None:
    """Have a model compute with fused operators, wherever they take its tensors.

    Modules and parameters stay as they are, so that what gathers, adapts or checkpoints them finds them.
    Norms and MLPs of all families are known by transformers' names, which are the same in each; of attention
    Chameleon's alone is, whose queries and keys have norms of their own kind.
    """
    module: Any
    for module in lm.modules():
        name = type(module).__name__
        if name.endswith("RMSNorm"):
            module.forward = _rms_norm_of(module, module.forward, rounds=not name.startswith(ROUNDED_ONCE))
        elif name.endswith("MLP") and module.config.hidden_act == "silu":
            module.forward = _mlp_of(module, module.forward)
        elif isinstance(module, modeling_chameleon.ChameleonAttention):
            for norm in (module.q_norm, module.k_norm):
                norm.forward = _rotated_norm_of(norm, norm.forward)
            module.forward = _attention_of(module, module.forward)


def _rms_norm_of(module: Any, eager: Callable[..., Any], *, rounds: bool) -> Callable[..., Any]:
    def forward(hidden_states: Tensor) -> Any:
        if not takes(hidden_states, module.weight):
            return eager(hidden_states)
        return rms_norm(hidden_states, module.weight, module.variance_epsilon, rounds=rounds)

    return forward


def _mlp_of(module: Any, eager: Callable[..., Any]) -> Callable[..., Any]:
    def forward(x: Tensor) -> Any:
        return module.down_proj(gated(module.gate_proj(x), module.up_proj(x))) if takes(x) else eager(x)

    return forward


def _rotated_norm_of(module: Any, eager: Callable[..., Any]) -> Callable[..., Any]:
    """As `eager`, and rotated where positions are given.

    The attention calls the module, and not a function with its weights, so that DeepSpeed ZeRO-3 gathers
    them.
    """

    def forward(x: Tensor, cosine: Tensor | None = None, sine: Tensor | None = None) -> Any:
        if cosine is None or sine is None:
            return eager(x)
        return rotated_norm(x, module.weight, module.bias, cosine, sine)

    return forward


def _attention_of(module: Any, eager: Callable[..., Any]) -> Callable[..., Any]:
    def forward(hidden_states: Tensor, **options: Any) -> Any:
        """Attend within packed sequences. Drawing, with a cache, stays eager."""
        positions = options.get("position_embeddings")
        if "segments" not in options or positions is None or not takes(hidden_states, *positions):
            return eager(hidden_states=hidden_states, **options)
        shape = (*hidden_states.shape[:-1], -1, module.head_dim)
        query = module.q_norm(module.q_proj(hidden_states).view(shape), *positions)
        key = module.k_norm(module.k_proj(hidden_states).view(shape), *positions)
        value = module.v_proj(hidden_states).view(shape)
        out, _ = packed_attention(
            module,
            *(x.transpose(1, 2) for x in (query, key, value)),
            segments=options["segments"],
            scaling=module.scaling,
            dropout=module.attention_dropout if module.training else 0.0,
        )
        return module.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), None

    return forward


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, rounds: bool = True) -> Tensor:
    """Scale the last dimension by its root mean square, and a weight.

    Args:
        x: [..., n].
        weight: [n].
        rounds: before it is multiplied by the weight.
    """
    out: Tensor = _RmsNorm.apply(x, weight, eps, rounds)  # type: ignore[no-untyped-call]
    return out


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up, of one shape."""
    out: Tensor = _Gated.apply(gate, up)  # type: ignore[no-untyped-call]
    return out


def rotated_norm(x: Tensor, weight: Tensor, bias: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Normalize the heads of queries or keys, and rotate them.

    Args:
        x: [1, tokens, heads, n].
        weight: [heads, n]; the bias alike.
        cosine: [1, tokens, n], of each token's position; the sine alike.
    """
    out: Tensor = _RotatedNorm.apply(x, weight, bias, cosine, sine)  # type: ignore[no-untyped-call]
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, rounds: bool) -> Tensor:
        from rasterloom.train.model import triton_kernels  # heavy

        x = x.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        out, factors = torch.empty_like(x), x.new_empty(rows, dtype=torch.float32)
        block = _block(width)
        triton_kernels.rms_norm_forward[(rows,)](
            x, weight, out, factors, eps, width, ROUNDS=rounds, BLOCK=block, num_warps=_warps(block)
        )
        ctx.save_for_backward(x, weight, factors)
        ctx.rounds = rounds
        return out

    @staticmethod
    def backward(ctx: Any, by_out: Tensor) -> tuple[Tensor, Tensor, None, None]:
        from rasterloom.train.model import triton_kernels  # heavy

        x, weight, factors = ctx.saved_tensors
        width, rows = x.shape[-1], len(factors)
        parts = min(rows, _PARTS)
        by_x, by_weight = torch.empty_like(x), x.new_empty(parts, width, dtype=torch.float32)
        block = _block(width)
        triton_kernels.rms_norm_backward[(parts,)](
            *(x, weight, factors, by_out.contiguous(), by_x, by_weight, rows, width),
            ROUNDS=ctx.rounds,
            BLOCK=block,
            num_warps=_warps(block),
        )
        return by_x, by_weight.sum(0).to(weight.dtype), None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        from rasterloom.train.model import triton_kernels  # heavy

        gate, up = gate.contiguous(), up.contiguous()
        out, size = torch.empty_like(gate), gate.numel()
        triton_kernels.gate_forward[(-(-size // _ELEMENTS),)](gate, up, out, size, BLOCK=_ELEMENTS)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, by_out: Tensor) -> tuple[Tensor, Tensor]:
        from rasterloom.train.model import triton_kernels  # heavy

        gate, up = ctx.saved_tensors
        by_gate, by_up, size = torch.empty_like(gate), torch.empty_like(up), gate.numel()
        triton_kernels.gate_backward[(-(-size // _ELEMENTS),)](
            gate, up, by_out.contiguous(), by_gate, by_up, size, BLOCK=_ELEMENTS
        )
        return by_gate, by_up


class _RotatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        from rasterloom.train.model import triton_kernels  # heavy

        x, cosine, sine = x.contiguous(), cosine.contiguous(), sine.contiguous()
        _, tokens, heads, width = x.shape
        out, half = torch.empty_like(x), width // 2
        triton_kernels.norm_rotate_forward[(-(-tokens // _TOKENS), heads)](
            *(x, weight, bias, cosine, sine, out, tokens, heads, half, _NORM_EPS),
            ROWS=_TOKENS,
            HALF=_block(half),
        )
        ctx.save_for_backward(x, weight, cosine, sine)
        return out

    @staticmethod
    def backward(ctx: Any, by_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        from rasterloom.train.model import triton_kernels  # heavy

        x, weight, cosine, sine = ctx.saved_tensors
        _, tokens, heads, width = x.shape
        parts, half = min(-(-tokens // _TOKENS), max(1, _PARTS // heads)), width // 2
        by_x = torch.empty_like(x)
        by_weight, by_bias = (x.new_empty(parts, heads, width, dtype=torch.float32) for _ in range(2))
        triton_kernels.norm_rotate_backward[(parts, heads)](
            *(x, weight, cosine, sine, by_out.contiguous(), by_x, by_weight, by_bias),
            *(tokens, heads, half, _NORM_EPS),
            ROWS=_TOKENS,
            HALF=_block(half),
        )
        sums = (part.sum(0).to(weight.dtype) for part in (by_weight, by_bias))
        return by_x, *sums, None, None


def _block(size: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << max(0, size - 1).bit_length()


def _warps(block: int) -> int:
    """Warps of a program that holds so many numbers."""
    return min(16, max(1, block // 512))

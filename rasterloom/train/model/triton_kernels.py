"""Triton's kernels of `kernels`: norms, rotation and the MLP's activation, each in one pass over memory.

Matrices are contiguous. Sums and products are float32, rounded to the model's precision at the end, and
within where a kernel says so. Offsets have 64 bits: half a million tokens of a wide MLP are more than 32 bits
count.
"""

import triton
import triton.language as tl


@triton.jit
def rms_norm_forward(values, weight, out, factors, eps, width, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """Scale a row to a mean square of 1 and multiply it.

    A program takes a row, which is rounded before it is multiplied by the weight if so asked.
    """
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    place = tl.program_id(0).to(tl.int64) * width + columns
    row = tl.load(values + place, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(row * row, axis=0) / width + eps)
    scaled = row * factor
    if ROUNDS:
        scaled = scaled.to(out.dtype.element_ty).to(tl.float32)
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (scaled * gain).to(out.dtype.element_ty), mask=inside)
    tl.store(factors + tl.program_id(0), factor)


@triton.jit
def rms_norm_backward(
    values, weight, factors, by_out, by_values, by_weight, rows, width,
    ROUNDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute the gradients. A program takes every so many rows, and sums up the weight's over them."""
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    programs = tl.num_programs(0)
    place = tl.program_id(0).to(tl.int64) * width + columns
    factor_at = factors + tl.program_id(0)
    for _ in range(tl.program_id(0), rows, programs):
        row = tl.load(values + place, mask=inside, other=0.0).to(tl.float32)
        given = tl.load(by_out + place, mask=inside, other=0.0).to(tl.float32)
        factor = tl.load(factor_at)
        scaled = row * factor
        if ROUNDS:
            total += given * scaled.to(values.dtype.element_ty).to(tl.float32)
        else:
            total += given * scaled
        given = given * gain
        mean = tl.sum(given * scaled, axis=0) / width
        found = factor * (given - scaled * mean)
        tl.store(by_values + place, found.to(by_values.dtype.element_ty), mask=inside)
        place += programs.to(tl.int64) * width
        factor_at += programs
    tl.store(by_weight + tl.program_id(0) * width + columns, total, mask=inside)


@triton.jit
def gate_forward(gate, up, out, size, BLOCK: tl.constexpr):
    """Multiply silu(gate), rounded, by up."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    x = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    opened = (x / (1.0 + tl.exp(-x))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + place, (opened * y).to(out.dtype.element_ty), mask=inside)


@triton.jit
def gate_backward(gate, up, by_out, by_gate, by_up, size, BLOCK: tl.constexpr):
    """Compute the gradients of both."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    x = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    given = tl.load(by_out + place, mask=inside, other=0.0).to(tl.float32)
    open_share = 1.0 / (1.0 + tl.exp(-x))
    opened = (x * open_share).to(up.dtype.element_ty).to(tl.float32)
    slope = open_share * (1.0 + x * (1.0 - open_share))
    tl.store(by_gate + place, (given * y * slope).to(by_gate.dtype.element_ty), mask=inside)
    tl.store(by_up + place, (given * opened).to(by_up.dtype.element_ty), mask=inside)


@triton.jit
def _halves(pointer, place, half, mask):
    """Both halves of heads, in float32."""
    left = tl.load(pointer + place, mask=mask, other=0.0).to(tl.float32)
    right = tl.load(pointer + place + half, mask=mask, other=0.0).to(tl.float32)
    return left, right


@triton.jit
def _store_halves(pointer, place, half, mask, left, right):
    kind = pointer.dtype.element_ty
    tl.store(pointer + place, left.to(kind), mask=mask)
    tl.store(pointer + place + half, right.to(kind), mask=mask)


@triton.jit
def _normalized(values, place, half, held, eps):
    """Both halves of heads, normalized, and the factor that did it."""
    left, right = _halves(values, place, half, held)
    mean = (tl.sum(left, axis=1) + tl.sum(right, axis=1)) / (2 * half)
    left = tl.where(held, left - mean[:, None], 0.0)
    right = tl.where(held, right - mean[:, None], 0.0)
    variance = (tl.sum(left * left, axis=1) + tl.sum(right * right, axis=1)) / (2 * half)
    factor = tl.rsqrt(variance + eps)[:, None]
    return left * factor, right * factor, factor


@triton.jit
def norm_rotate_forward(
    values, weight, bias, cosine, sine, out, tokens, heads, half, eps, ROWS: tl.constexpr, HALF: tl.constexpr
):
    """Normalize each head of each token, and rotate it by its position.

    A program takes some tokens of one head, whose halves are rotated into each other.
    """
    head = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, HALF)
    inside = columns < half
    held = (rows < tokens)[:, None] & inside[None, :]
    place = (rows.to(tl.int64)[:, None] * heads + head) * (2 * half) + columns[None, :]
    angle = rows.to(tl.int64)[:, None] * (2 * half) + columns[None, :]
    of_head = head * (2 * half) + columns
    left, right, _ = _normalized(values, place, half, held, eps)
    gain_left, gain_right = _halves(weight, of_head, half, inside)
    level_left, level_right = _halves(bias, of_head, half, inside)
    left = left * gain_left[None, :] + level_left[None, :]
    right = right * gain_right[None, :] + level_right[None, :]
    cos_left, cos_right = _halves(cosine, angle, half, held)
    sin_left, sin_right = _halves(sine, angle, half, held)
    _store_halves(
        out, place, half, held, left * cos_left - right * sin_left, right * cos_right + left * sin_right
    )


@triton.jit
def norm_rotate_backward(
    values, weight, cosine, sine, by_out, by_values, by_weight, by_bias, tokens, heads, half, eps,
    ROWS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Compute the gradients.

    A program takes every so many tokens of one head, and sums up those of weight and bias over them.
    """
    head = tl.program_id(1)
    columns = tl.arange(0, HALF)
    inside = columns < half
    of_head = head * (2 * half) + columns
    gain_left, gain_right = _halves(weight, of_head, half, inside)
    weight_left = tl.zeros([HALF], dtype=tl.float32)
    weight_right = tl.zeros([HALF], dtype=tl.float32)
    bias_left = tl.zeros([HALF], dtype=tl.float32)
    bias_right = tl.zeros([HALF], dtype=tl.float32)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    for _ in range(tl.program_id(0) * ROWS, tokens, tl.num_programs(0) * ROWS):
        held = (rows < tokens)[:, None] & inside[None, :]
        place = (rows.to(tl.int64)[:, None] * heads + head) * (2 * half) + columns[None, :]
        angle = rows.to(tl.int64)[:, None] * (2 * half) + columns[None, :]
        left, right, factor = _normalized(values, place, half, held, eps)
        given_left, given_right = _halves(by_out, place, half, held)
        cos_left, cos_right = _halves(cosine, angle, half, held)
        sin_left, sin_right = _halves(sine, angle, half, held)
        by_left = given_left * cos_left + given_right * sin_right
        by_right = given_right * cos_right - given_left * sin_left
        bias_left += tl.sum(by_left, axis=0)
        bias_right += tl.sum(by_right, axis=0)
        weight_left += tl.sum(by_left * left, axis=0)
        weight_right += tl.sum(by_right * right, axis=0)
        by_left = by_left * gain_left[None, :]
        by_right = by_right * gain_right[None, :]
        level = (tl.sum(by_left, axis=1) + tl.sum(by_right, axis=1))[:, None] / (2 * half)
        slope = (tl.sum(by_left * left, axis=1) + tl.sum(by_right * right, axis=1))[:, None] / (2 * half)
        by_left = factor * (by_left - level - left * slope)
        by_right = factor * (by_right - level - right * slope)
        _store_halves(by_values, place, half, held, by_left, by_right)
        rows += tl.num_programs(0) * ROWS
    part = tl.program_id(0) * heads * (2 * half) + of_head
    _store_halves(by_weight, part, half, inside, weight_left, weight_right)
    _store_halves(by_bias, part, half, inside, bias_left, bias_right)

"""The draw of tokens: temperature, truncation, and one uniform per row turned into a code.

Inverse CDF in two levels, first a block of codes, then a code inside it, so that probabilities are
summed once and accumulated over few. Shapes: B batch, M rows, V codebook, R any rows.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskGIL.guidance import PartLogits
from MaskGIL.sampling import SamplingConfig

BLOCK = 128  # codes: the square root of a large codebook
CPU_ROWS = 128  # drawn at a time: what stays in the cache need not be fetched from memory


def temperature_at(sampling: SamplingConfig, progress: float) -> float:
    """The temperature at a progress in [0, 1]: linear from the first one to the last one.

    Halton-MaskGIT (Besnier et al., 2025) has a rising one.
    """
    first, last = sampling.temperature, sampling.last_temperature
    return first if last is None else first + (last - first) * progress


def draw_tokens(
    logits: Tensor | PartLogits,
    noise: Tensor | Sequence[Tensor],
    sampling: SamplingConfig,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Draw one token per row of logits (B, M, V) from uniforms noise (B, M) in (0, 1).

    Temperature, top-k, top-p and min-p, in this order, shape the draw; of tokens in parts, that of
    every part, each with uniforms of its own. Temperature 0 takes the most likely token. Returns
    tokens (B, M) int64 and the log-probability (B, M) that the untempered, untruncated logits
    give them.
    """
    noises = [noise] if isinstance(noise, Tensor) else noise
    if isinstance(logits, Tensor):
        return _draw(logits, noises[0], sampling, temperature)
    parts: list[Tensor] = []
    confidence = torch.zeros_like(noises[0])
    for uniforms in noises:
        drawn, log_probability = _draw(logits.next(parts), uniforms, sampling, temperature)
        parts.append(drawn)
        confidence = confidence + log_probability
    return logits.head.join(parts), confidence


def _draw(
    logits: Tensor, noise: Tensor, sampling: SamplingConfig, temperature: float
) -> tuple[Tensor, Tensor]:
    rows, uniforms = logits.flatten(0, -2), noise.flatten()
    size = CPU_ROWS if logits.is_cpu else max(1, len(rows))
    drawn = [
        _draw_rows(part.float(), uniform, sampling, temperature)
        for part, uniform in zip(rows.split(size), uniforms.split(size))
    ]
    tokens, log_probability = (torch.cat(parts).view_as(noise) for parts in zip(*drawn))
    return tokens, log_probability


def _draw_rows(
    logits: Tensor, uniform: Tensor, sampling: SamplingConfig, temperature: float
) -> tuple[Tensor, Tensor]:
    """As `draw_tokens`, of logits (R, V) and uniforms (R,)."""
    if temperature == 1:
        probabilities = logits.softmax(-1)
        tokens = _inverse_cdf(truncate(probabilities, sampling), uniform)
        return tokens, probabilities.gather(-1, tokens[:, None])[:, 0].log()
    if temperature == 0:
        tokens = logits.argmax(-1)
    else:
        below_best = logits - logits.amax(-1, keepdim=True)  # finite in any temperature
        probabilities = (below_best / temperature).softmax(-1)
        tokens = _inverse_cdf(truncate(probabilities, sampling), uniform)
    return tokens, logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def truncate(probabilities: Tensor, sampling: SamplingConfig) -> Tensor:
    """Probabilities (R, V) -> the same with those of codes that are cut off 0; no sum is restored.

    top-k (Fan et al., 2018), of what remains top-p (Holtzman et al., 2020), of what remains min-p
    (Nguyen et al., 2024). Codes as likely as the last one that is kept are kept too.
    """
    if sampling.top_k:
        kept = min(sampling.top_k, probabilities.shape[-1])
        probabilities = _at_least(probabilities, probabilities.topk(kept).values[:, -1:])
    if sampling.top_p < 1:
        falling = probabilities.sort(-1, descending=True).values
        ends = falling.cumsum(-1)
        needed = ends - falling < sampling.top_p * ends[:, -1:]  # those before it do not suffice
        last = falling.masked_fill(~needed, torch.inf).amin(-1, keepdim=True)
        probabilities = _at_least(probabilities, last)
    if sampling.min_p:
        best = probabilities.amax(-1, keepdim=True)
        probabilities = _at_least(probabilities, sampling.min_p * best)
    return probabilities


def _at_least(probabilities: Tensor, threshold: Tensor) -> Tensor:
    return probabilities.masked_fill(probabilities < threshold, 0)


def _inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """Codes (R,) of weights (R, V), in proportion to them, from uniforms (R,)."""
    if missing := -weights.shape[-1] % BLOCK:
        weights = F.pad(weights, (0, missing))
    blocks = weights.unflatten(-1, (-1, BLOCK))  # (R, V / BLOCK, BLOCK)
    block, uniform = _pick(blocks.sum(-1), uniform)
    inside = blocks.gather(1, block[:, None, None].expand(-1, 1, BLOCK))[:, 0]  # (R, BLOCK)
    code, _ = _pick(inside, uniform)
    return block * BLOCK + code


def _pick(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Places (R,) of weights (R, n), never one of weight 0, and the uniforms (R,) that are left.

    Given its place, where a uniform has fallen inside of that is uniform again.
    """
    ends = weights.cumsum(-1).masked_fill(weights == 0, 0)
    total = ends.amax(-1, keepdim=True)
    target = uniform[:, None] * total  # rounded, it may reach the total
    place = ((ends > target) | (ends == total)).byte().argmax(-1, keepdim=True)  # the first one
    weight = weights.gather(-1, place)
    left = (target - (ends.gather(-1, place) - weight)) / weight
    return place[:, 0], left[:, 0].clamp(0, 1)

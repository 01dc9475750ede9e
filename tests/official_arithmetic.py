"""The public tokenizers in plain functions, over weights under their authors' names.

Written from facts on the authors' code (goldens/NOTES.md; commits in `fixtures/network/NOTES.md`),
sharing nothing with `Network/`. Layers are found by their names. x is (B, D, H, W), w maps names to
tensors, p is the name of a layer or of a part.
"""

import torch
import torch.nn.functional as F

# Where taming-transformers and LlamaGen keep what both compute alike
VQGAN = {
    "taming": ("down", "up", "block", "mid.block_1", "mid.attn_1", "mid.block_2"),
    "llamagen": ("conv_blocks", "conv_blocks", "res", "mid.0", "mid.1", "mid.2"),
}
VQGAN["chameleon"] = VQGAN["taming"]


def encode(w, family, image):
    """Image (B, 3, H, W) in [-1, 1] -> tokens (B, h, w)."""
    encoders = {"maskgit": _maskgit_encoder, "magvit2": _magvit2_encoder}
    z = encoders[family](w, image) if family in encoders else _vqgan_encoder(w, family, image)
    if family == "magvit2":  # channel 0 is the lowest bit; zero counts as 0
        return sum(2**k * (z[:, k] > 0).long() for k in range(z.shape[1]))
    rows, codes = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]), _codes(w, family)
    if family == "llamagen":
        rows = rows / rows.norm(dim=1, keepdim=True)
    nearest = [(codes - row).square().sum(1).argmin() for row in rows]
    return torch.stack(nearest).view(z.shape[0], *z.shape[2:])


def decode(w, family, tokens):
    """Tokens (B, h, w) -> image (B, 3, H, W) about [-1, 1], not clamped."""
    if family == "magvit2":
        num_bits = w["decoder.conv_in.weight"].shape[1]
        bits = torch.stack([tokens >> k & 1 for k in range(num_bits)], 1)
        return _magvit2_decoder(w, 2.0 * bits - 1)
    codes = _codes(w, family)[tokens].permute(0, 3, 1, 2)
    if family == "maskgit":
        return 2 * _maskgit_decoder(w, codes) - 1
    return _vqgan_decoder(w, family, codes)


def _codes(w, family):
    codes = w["quantize.embedding.weight"]
    return codes / codes.norm(dim=1, keepdim=True) if family == "llamagen" else codes


# ------------------------------------------------------------------------------------- layers
def _conv(w, p, x, stride=1, padding=None):
    kernel = w[f"{p}.weight"]
    padding = kernel.shape[-1] // 2 if padding is None else padding
    return F.conv2d(x, kernel, w.get(f"{p}.bias"), stride, padding)


def _norm(w, p, x, groups=32):
    parts = x.reshape(x.shape[0], groups, -1)
    mean, variance = parts.mean(2, keepdim=True), parts.var(2, correction=0, keepdim=True)
    x = ((parts - mean) / (variance + 1e-6).sqrt()).view_as(x)
    return x * w[f"{p}.weight"][:, None, None] + w[f"{p}.bias"][:, None, None] if p else x


def _swished(w, p, x):
    x = _norm(w, p, x)
    return x * torch.sigmoid(x)


def _block(w, p, x, of_branch=False):
    branch = _conv(w, f"{p}.conv1", _swished(w, f"{p}.norm1", x))
    branch = _conv(w, f"{p}.conv2", _swished(w, f"{p}.norm2", branch))
    if f"{p}.nin_shortcut.weight" in w:  # MaskGIT's reads the branch, not the block's input
        x = _conv(w, f"{p}.nin_shortcut", branch if of_branch else x)
    return x + branch


def _attention(w, p, x):
    h = _norm(w, f"{p}.norm", x)
    q, k, v = (_conv(w, f"{p}.{name}", h).flatten(2) for name in "qkv")  # (B, D, H W)
    weights = torch.softmax(q.mT @ k / x.shape[1] ** 0.5, dim=2)
    return x + _conv(w, f"{p}.proj_out", (v @ weights.mT).view_as(x))


def _doubled(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def _blocks(w, p, x, attention="", of_branch=False):
    number = 0
    while f"{p}.{number}.conv1.weight" in w:
        x = _block(w, f"{p}.{number}", x, of_branch)
        if f"{attention}.{number}.q.weight" in w:
            x = _attention(w, f"{attention}.{number}", x)
        number += 1
    assert number
    return x


def _levels(w, p):
    """How many levels there are: 0, 1, ..."""
    return len({name[len(p) + 1 :].split(".")[0] for name in w if name.startswith(f"{p}.")})


def _end(w, part, x):
    return _conv(w, f"{part}.conv_out", _swished(w, f"{part}.norm_out", x))


# ----------------------------------------------------------------------------------- families
def _vqgan_middle(w, part, family, x):
    first, attention, last = (f"{part}.{name}" for name in VQGAN[family][3:])
    return _block(w, last, _attention(w, attention, _block(w, first, x)))


def _vqgan_encoder(w, family, x):
    down, _, block, *_ = VQGAN[family]
    x = _conv(w, "encoder.conv_in", x)
    for level in range(_levels(w, f"encoder.{down}")):
        p = f"encoder.{down}.{level}"
        x = _blocks(w, f"{p}.{block}", x, f"{p}.attn")
        if f"{p}.downsample.conv.weight" in w:  # zeros to the right and below alone
            x = _conv(w, f"{p}.downsample.conv", F.pad(x, (0, 1, 0, 1)), 2, 0)
    x = _end(w, "encoder", _vqgan_middle(w, "encoder", family, x))
    return _conv(w, "quant_conv", x)


def _vqgan_decoder(w, family, codes):
    _, up, block, *_ = VQGAN[family]
    x = _conv(w, "decoder.conv_in", _conv(w, "post_quant_conv", codes))
    x = _vqgan_middle(w, "decoder", family, x)
    order = range(_levels(w, f"decoder.{up}"))
    for level in order if family == "llamagen" else reversed(order):  # LlamaGen: as they run
        p = f"decoder.{up}.{level}"
        x = _blocks(w, f"{p}.{block}", x, f"{p}.attn")
        if f"{p}.upsample.conv.weight" in w:
            x = _conv(w, f"{p}.upsample.conv", _doubled(x))
    return _end(w, "decoder", x)


def _maskgit_encoder(w, image):
    x, levels = _conv(w, "encoder.conv_in", (image + 1) / 2), _levels(w, "encoder.down")
    for level in range(levels):
        x = _blocks(w, f"encoder.down.{level}.block", x, of_branch=True)
        if level < levels - 1:  # means of 2x2
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    return _end(w, "encoder", _blocks(w, "encoder.mid", x, of_branch=True))


def _maskgit_decoder(w, codes):
    x = _blocks(w, "decoder.mid", _conv(w, "decoder.conv_in", codes), of_branch=True)
    for level in reversed(range(_levels(w, "decoder.up"))):
        x = _blocks(w, f"decoder.up.{level}.block", x, of_branch=True)
        if level:
            x = _conv(w, f"decoder.up.{level}.upsample_conv", _doubled(x))
    return _end(w, "decoder", x)


def _magvit2_encoder(w, image):
    x = _conv(w, "encoder.conv_in", image)
    for level in range(_levels(w, "encoder.down")):
        x = _blocks(w, f"encoder.down.{level}.block", x)
        if f"encoder.down.{level}.downsample.weight" in w:
            x = _conv(w, f"encoder.down.{level}.downsample", x, 2)
    return _end(w, "encoder", _blocks(w, "encoder.mid_block", x))


def _magvit2_decoder(w, codes):
    flat = codes.flatten(2)  # (B, C, h w)
    deviation = (flat.var(2, correction=1) + 1e-6).sqrt()
    x = _blocks(w, "decoder.mid_block", _conv(w, "decoder.conv_in", codes))
    for level in reversed(range(_levels(w, "decoder.up"))):
        p = f"decoder.adaptive.{level}"
        gain = deviation @ w[f"{p}.gamma.weight"].T + w[f"{p}.gamma.bias"]
        bias = flat.mean(2) @ w[f"{p}.beta.weight"].T + w[f"{p}.beta.bias"]
        x = gain[:, :, None, None] * _norm(w, "", x) + bias[:, :, None, None]
        x = _blocks(w, f"decoder.up.{level}.block", x)
        if f"decoder.up.{level}.upsample.conv1.weight" in w:
            x = _depth_to_space(_conv(w, f"decoder.up.{level}.upsample.conv1", x))
    return _end(w, "decoder", x)


def _depth_to_space(x):
    found = x.new_zeros(x.shape[0], x.shape[1] // 4, 2 * x.shape[2], 2 * x.shape[3])
    for place, part in enumerate(x.chunk(4, 1)):
        found[:, :, place // 2 :: 2, place % 2 :: 2] = part
    return found

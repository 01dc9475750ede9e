"""What a network and a tokenizer are made of, and how a setting is declared.

Every floor declares its own settings with `setting`; the run's configuration nests them.
"""

from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from math import gcd
from typing import Any, Literal

from Network.sizes import SIZES_OF, UNNAMED, Size

Norm = Literal["pre", "post", "sandwich"]
Rotary = Literal["grid2d", "llamagen", "published"]
Middle = Literal["attention", "blocks", "none"]


class UserError(ValueError):
    """A mistake that the user can mend: one plain sentence with the key or file and the remedy."""


def setting(default: Any, help: str, *, free: bool = False, follows: str = "") -> Any:
    """Declare one configuration key.

    `help` is its sentence in `--help`. A `free` key may change when a run is resumed (paths,
    logging, number of workers); any other key belongs to the identity of the run. A key that
    `follows` another of its section is filled in anew when that one is given and it is not.
    """
    return field(default=default, metadata={"help": help, "free": free, "follows": follows})


# What only kind gpt has a choice of; learned positions the others always have
OF_CAPTIONS = ("caption_tokens", "caption_places", "caption_whitening")
GPT_ONLY = ("norm", "qk_norm", "embed_norm", "rotary", "rotary_base", "caption_width",
            *OF_CAPTIONS, "low_bits", "kv_heads", "null_condition", "size_condition")  # fmt: skip
CAPTION_TOKENS = 120  # LlamaGen pads and cuts every caption to as many
LARGEST_UNSPLIT = 65_536  # codes that are predicted at once


def _numbers(size: Size) -> str:
    return " ".join(f"network.{name}={number}" for name, number in size._asdict().items())


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of a generator. `size` names a row of `SIZES_OF`, which fills in the three
    behind.

    Raises UserError for an unknown size, for numbers beside it that are not its own, for heads
    that do not divide the width, and for settings that `kind` does not know.
    """

    kind: Literal["gpt", "vit", "halton"] = setting(
        "gpt",
        "architecture: gpt is the Bi-LLaMA of MaskGIL, vit the transformer of MaskGIT, halton that "
        "of Halton-MaskGIT with adaptive norms",
    )
    size: str = setting(
        "",
        "a named size (B, L, XL, XXL; vit: small, big, huge; halton: tiny, small, base, large, "
        "xlarge), or empty to give depth, width and heads",
    )
    depth: int = setting(
        0, "number of blocks; 0: as the size has it, without a size 6", follows="size"
    )
    width: int = setting(
        0, "width of the hidden states; 0: as the size has it, else 192", follows="size"
    )
    heads: int = setting(
        0,
        "attention heads, which divide the width; 0: as the size has it, else 6",
        follows="size",
    )
    codebook_size: int = setting(16384, "codes of the tokenizer; the mask token is one more")
    low_bits: int | None = setting(
        None,
        "bits of a token that are predicted before the others; 0: all at once; null: 0 up to "
        "65,536 codes, else a third of the bits",
    )
    num_classes: int = setting(1000, "classes of the condition; 0 trains without condition")
    grid: tuple[int, int] = setting((16, 16), "height, width of the token grid")
    longest: tuple[int, int] | None = setting(
        None,
        "longest height and longest width of the token grids of training, beyond which "
        "sampling.positions tells how it goes on; null: those of grid",
    )
    norm: Norm = setting("post", "where the normalisation of a branch stands")
    qk_norm: bool = setting(True, "RMSNorm over each head of queries and keys")
    embed_norm: bool = setting(True, "RMSNorm of embedded tokens and condition")
    rotary: Rotary = setting("grid2d", "layout of the rotary positions")
    rotary_base: float = setting(
        10000.0,
        "of the rotary frequencies, which fall from 1 to about 1 / rotary_base; small grids learn "
        "sooner with a smaller one",
    )
    learned_positions: bool = setting(False, "add a learned embedding of each place in the grid")
    size_condition: bool = setting(
        False, "add a learned embedding of height and width, of use where grids differ"
    )
    dropout: float = setting(0.0, "dropout of embedded tokens and of both branches")
    mlp_width: int = setting(0, "of kind vit: inner width of its feed-forward; 0: 4 x width")
    caption_width: int = setting(
        0, "width of the text features that take the place of classes; 0: classes"
    )
    caption_tokens: int = setting(
        CAPTION_TOKENS, "condition tokens of a caption: longer ones are cut, shorter ones padded"
    )
    caption_places: bool = setting(
        False,
        "add a learned embedding of each place in the caption, for a text encoder whose features "
        "tell little of the order of words",
    )
    caption_whitening: bool = setting(
        False,
        "make text features white first, by the captions of training: what tells two of them apart "
        "is then as large as what all share",
    )
    kv_heads: int = setting(
        0, "heads of keys and values, which divide the heads; 0: as many (grouped-query attention)"
    )
    null_condition: Literal["label", "mask_token"] = setting(
        "label",
        "what stands for no class: one more label, or mask_token: the embedding of that token",
    )

    def __post_init__(self):
        self._fill_in_size()
        for name in ("depth", "width", "heads", "codebook_size"):
            _require_whole("network", name, getattr(self, name))
        low_bits, codes = self._low_bits, self.codebook_size
        if low_bits < 0 or (low_bits and (codes % 2**low_bits or codes == 2**low_bits)):
            raise UserError(
                f"network.low_bits={low_bits} does not split network.codebook_size={codes} into "
                "equal parts; choose another, or 0 to predict a token at once."
            )
        if self.num_classes < 0 or min(self.grid) < 1:
            raise UserError(
                f"network.num_classes={self.num_classes} must not be negative, and network.grid="
                f"{self.grid[0]},{self.grid[1]} needs at least 1,1."
            )
        self._check_longest()
        if not 0 <= self.dropout < 1:
            raise UserError(f"network.dropout must lie in [0, 1), not {self.dropout}.")
        self._check_kind()
        self._check_heads()

    @property
    def key_heads(self) -> int:
        """Heads of keys, and of values."""
        return self.kv_heads or self.heads

    @property
    def learns_places(self) -> bool:
        """Whether there is something learned per place, so that `grid` is the only one."""
        return self.learned_positions or self.kind != "gpt"

    @property
    def longest_sides(self) -> tuple[int, int]:
        """Height and width in tokens up to which training has shown positions."""
        return self.longest or self.grid

    def extends(self, grid: tuple[int, int]) -> bool:
        """Whether a grid has rotary positions beyond those of training, which can be moved."""
        return self._turns and any(side > most for side, most in zip(grid, self.longest_sides))

    @property
    def _turns(self) -> bool:
        """Whether positions are rotary in two dimensions alone, so of any grid."""
        return self.rotary != "published" and not self.learns_places

    @property
    def is_conditional(self) -> bool:
        """Whether there is a condition, classes or captions, and so a null condition beside it."""
        return bool(self.num_classes or self.caption_width)

    def _check_longest(self) -> None:
        if self.longest is None:
            return
        written = f"network.longest={self.longest[0]},{self.longest[1]}"
        if not self._turns:
            raise UserError(
                f"{written} has no effect without rotary positions in two dimensions on any grid; "
                "leave it out."
            )
        if any(most < side for most, side in zip(self.longest, self.grid)):
            raise UserError(
                f"{written} is shorter than network.grid={self.grid[0]},{self.grid[1]}, which is "
                "a grid of training too; raise it, or leave it out."
            )

    def _check_kind(self) -> None:
        """Raise UserError for a setting that was given and has no effect."""
        default = {field.name: field.default for field in fields(self)}
        useless = ("mlp_width",) if self.kind == "gpt" else GPT_ONLY
        useless = (*useless, "mlp_width") if self.kind == "halton" else useless
        for name in useless:
            if (given := getattr(self, name)) != default[name]:
                raise UserError(
                    f"network.{name}={str(given).lower()} has no effect on "
                    f"network.kind={self.kind}; leave it out."
                )
        if self.kind != "gpt" and len(self.part_sizes) > 1:
            raise UserError(
                f"network.codebook_size={self.codebook_size} is predicted in parts, which "
                f"network.kind={self.kind} cannot; use network.kind=gpt."
            )
        if self.mlp_width < 0 or self.caption_width < 0:
            raise UserError("network.mlp_width and network.caption_width must not be negative.")
        if self.rotary_base <= 1:
            raise UserError(f"network.rotary_base must be above 1, not {self.rotary_base:g}.")
        if self.rotary == "published" and self.rotary_base != default["rotary_base"]:
            raise UserError(
                f"network.rotary_base={self.rotary_base:g} has no effect on network.rotary="
                "published; leave it out."
            )
        if self.caption_width and (self.num_classes or self.rotary == "published"):
            raise UserError(
                f"network.caption_width={self.caption_width} takes captions in the place of "
                "classes, in front of the image tokens; write network.num_classes=0 with it, and "
                "leave network.rotary=published out."
            )
        _require_whole("network", "caption_tokens", self.caption_tokens)
        for name in () if self.caption_width else OF_CAPTIONS:
            if (given := getattr(self, name)) != default[name]:
                raise UserError(
                    f"network.{name}={str(given).lower()} has no effect without captions; give "
                    "network.caption_width, or leave it out."
                )
        if self.size_condition and self.learned_positions:
            raise UserError(
                "network.size_condition=true tells grids of several sizes apart, and there is one "
                "with network.learned_positions=true; leave one of them out."
            )
        if self.null_condition == "mask_token" and not self.num_classes:
            raise UserError(
                "network.null_condition=mask_token takes the place of the null class, and there "
                "are no classes; use network.null_condition=label."
            )

    def _check_heads(self) -> None:
        multiple = 4 if self.kind == "gpt" else 1  # a pair turns with the row, one with the column
        if self.kind == "halton":  # its heads need not fill the width
            if self.heads > self.width:
                raise UserError(
                    f"network.heads={self.heads} must not exceed network.width={self.width}."
                )
        elif self.width % self.heads or self.width // self.heads % multiple:
            raise UserError(
                f"network.heads={self.heads} must divide network.width={self.width}"
                + (" into heads whose width is a multiple of 4." if multiple > 1 else ".")
            )
        if self.kv_heads < 0 or self.heads % self.key_heads:
            raise UserError(
                f"network.kv_heads={self.kv_heads} must divide network.heads={self.heads}; use 0 "
                "for as many."
            )

    @property
    def part_sizes(self) -> tuple[int, ...]:
        """Codes of each part of a token: one part, or its low and its high bits."""
        if not self._low_bits:
            return (self.codebook_size,)
        return 2**self._low_bits, self.codebook_size >> self._low_bits

    @property
    def _low_bits(self) -> int:
        if self.low_bits is not None or self.kind != "gpt":
            return self.low_bits or 0
        large = self.codebook_size > LARGEST_UNSPLIT
        return (self.codebook_size - 1).bit_length() // 3 if large else 0

    def _fill_in_size(self) -> None:
        sizes = SIZES_OF[self.kind]
        if self.size and self.size not in sizes:
            words = {name.lower(): name for name in sizes}
            close = get_close_matches(self.size.lower(), words, n=1)
            hint = f" Did you mean {words[close[0]]!r}?" if close else ""
            raise UserError(f"Unknown network.size {self.size!r}.{hint} Known: {', '.join(sizes)}.")
        named = sizes.get(self.size, UNNAMED)
        given = Size(self.depth, self.width, self.heads)
        size = Size(*(number or own for number, own in zip(given, named)))
        if self.size and size != named:
            raise UserError(
                f"network.size={self.size} has {_numbers(named)}, but {_numbers(given)} is asked "
                f"for; write {_numbers(Size(0, 0, 0))} with it, or network.size= without."
            )
        for name, number in size._asdict().items():
            object.__setattr__(self, name, number)


@dataclass(frozen=True)
class TokenizerConfig:
    """A tokenizer: where its weights are, or the architecture to train one."""

    name: str = setting(
        "", "a public tokenizer, as llamagen-vq16: its architecture, whatever the keys below say"
    )
    weights: str = setting(
        "", "weights folder of a trained tokenizer; with a name the file of its authors", free=True
    )
    family: Literal["taming", "llamagen", "chameleon", "maskgit", "magvit2", "patches"] = setting(
        "taming",
        "family of the tokenizer; patches is taming with codes that see their own pixels alone",
    )
    width: int = setting(128, "channels at full resolution")
    multipliers: tuple[int, ...] = setting((1, 1, 2, 2, 4), "channels per level, as multiples")
    res_blocks: int = setting(2, "residual blocks per level")
    groups: int = setting(32, "groups of the group norms")
    attention_levels: tuple[int, ...] = setting((4,), "levels with attention, 0 = full resolution")
    encoder_middle: Middle = setting("attention", "two blocks and attention at the end, or less")
    decoder_middle: Middle = setting("attention", "two blocks and attention at the start, or less")
    latent_width: int = setting(256, "channels of the encoder's output")
    codebook_size: int = setting(16384, "number of codes")
    code_width: int = setting(8, "width of a code")
    l2_norm: bool = setting(True, "codes and latents on the unit sphere (LlamaGen, ViT-VQGAN)")
    codebook_weight: float = setting(1.0, "weight of the loss that moves codes to latents")
    commitment_weight: float = setting(0.25, "weight of the loss that moves latents to codes")
    entropy_weight: float | None = setting(
        None,
        "weight of the entropy terms: of a token low, of all tokens high; null: 0.1 for magvit2, "
        "else 0",
    )

    def __post_init__(self):
        counts = ("width", "res_blocks", "groups", "latent_width", "codebook_size", "code_width")
        for name in counts:
            _require_whole("tokenizer", name, getattr(self, name))
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError("tokenizer.multipliers needs a number above 0 for each level.")
        last = len(self.multipliers) - 1
        if not all(0 <= level <= last for level in self.attention_levels):
            raise UserError(
                f"tokenizer.attention_levels={','.join(map(str, self.attention_levels))} names a "
                f"level outside 0 to {last}; write tokenizer.attention_levels= for none."
            )
        channels = [self.width * multiple for multiple in self.multipliers]
        shared = gcd(*channels)
        if shared % self.groups:
            raise UserError(
                f"tokenizer.groups={self.groups} does not divide the channels of every level, "
                f"{', '.join(map(str, channels))}; use a divisor of {shared}."
            )
        for name in ("codebook_weight", "commitment_weight", "entropy_weight"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"tokenizer.{name} must not be negative.")


def _require_whole(section: str, name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{section}.{name} must be at least 1, not {value}.")

"""Several tokenizers on one set of images: opened, announced, scored, and told in one table.

Stands on weights folders and public files, the images to redraw, and `Metrics.reconstruction`.
"""

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import NamedTuple

import torch
from torch import Tensor

from MaskGIL.device import DTYPES, choose_device, choose_precision
from MaskGIL.distributed import world_size
from MaskGIL.durable import replace_file, to_json
from MaskGIL.output import output_path
from MaskGIL.pictures import save_grid
from MaskGIL.tokenizer_source import find_tokenizer
from Metrics.features import load_feature_network
from Metrics.inception import INCEPTION, open_inception
from Metrics.perceptual import VGG, Perceptual, open_perceptual
from Metrics.progress import Progress
from Metrics.published import FEW
from Metrics.reconstruction import (
    Reconstructions,
    Redraw,
    ThroughThumbnails,
    ThroughTokens,
    distance_name,
    distances,
)
from Metrics.record import Record, versions
from Metrics.reference import open_reference_images
from Metrics.sample_config import SampleConfig
from Metrics.seen import Extractor, Seen
from Network.config import UserError

FORMAT = 1
OUT = "reconstructions.json"
MEASURED = (
    "Distances are between all reconstructions and the images themselves; PSNR (at most 100 dB), "
    "SSIM (Gaussian window 11x11, sigma 1.5, each of red, green and blue), L1 and LPIPS are means "
    "over images of 8 bits; speeds leave out the reading of images."
)


class Networks(NamedTuple):
    """What looks at the reconstructions."""

    extractors: Sequence[Extractor]
    perceptual: Perceptual | None


class Comparison:
    """Everything checked that costs no time: what remains is to read weights. Raises UserError."""

    def __init__(self, config: SampleConfig):
        if world_size() > 1:
            raise UserError("reconstruct works in one process: start it with python, not torchrun.")
        self.config, side = config, config.image_size
        self.out = output_path(
            "out", OUT if config.out == SampleConfig.out else config.out, ".json"
        )
        self.table = self.out.with_suffix(".md")
        for file in (self.out, self.table):
            if file.exists():
                raise UserError(f"{file} is there already; name another out.")
        self.grid = output_path("grid", config.grid, ".png") if config.grid else None
        self.candidates = [find_tokenizer("reconstruct", value) for value in config.reconstruct]
        if len({candidate.value for candidate in self.candidates}) < len(self.candidates):
            raise UserError("reconstruct names a tokenizer twice; name each once.")
        for candidate in self.candidates:
            if side % candidate.described.stride:
                raise UserError(
                    f"image_size={side} is no multiple of {candidate.described.stride}, the stride "
                    f"of {candidate.value}; choose one that is."
                )
            if side < (smallest := candidate.described.smallest_side):
                raise UserError(
                    f"image_size={side} is too small for {candidate.value}, which cannot draw an "
                    f"image of one token; choose {smallest} or more."
                )
        self.reference = open_reference_images(
            config.reference, config.reference_split, (side, side), config.num_reference
        )
        if len(self.reference) < 2:
            raise UserError(f"reference={config.reference} is one image; a distance needs two.")
        self.device = choose_device(config.device)
        precision = "fp32" if config.precision == "auto" else config.precision
        self.dtype = choose_precision(precision, self.device)
        self.weights = INCEPTION.find(config.inception), VGG.find(config.vgg)

    def plan(self) -> str:
        """What will be done, for people."""
        config, side, lines = self.config, self.config.image_size, []
        for candidate in self.candidates:
            tokens = side // candidate.described.stride
            fetched = ", fetched unless it is there" if candidate.is_public else ""
            codes = f"{candidate.described.codebook_size:,} codes{fetched}"
            lines.append(f"tokenizer  {candidate.value}: {tokens}x{tokens} tokens of {codes}")
        lines += [
            f"images     {self.reference.name}: {len(self.reference):,} of {side}x{side}, "
            f"{1 + len(self.candidates) + len(self._grids())} times, in chunks of {config.chunk}",
            f"device     {describe_device(self.device)}, {self._precision()}",
        ]
        values = (config.inception, config.vgg)
        for name, value, found in zip(("rFID", "LPIPS"), values, self.weights):
            lines.append(f"{name:9}  {found or ('fetched' if value == 'download' else 'none')}")
        return "\n".join([*lines, f"out        {self.out}, {self.table}"])

    def run(self, progress: Progress) -> str:
        """Redraw all images by all tokenizers and write what comes of it; returns the table."""
        tokenizers = [candidate.open() for candidate in self.candidates]
        networks = self._open_networks()
        redraws: dict[str, Redraw] = {
            candidate.value: ThroughTokens(tokenizer, self.device, self.dtype)
            for candidate, tokenizer in zip(self.candidates, tokenizers)
        }
        redraws |= {f"thumbnail {h}x{w}": ThroughThumbnails((h, w)) for h, w in self._grids()}
        rows, shown = [], []
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 is no fp32
            real = self._seen(progress(self.reference, "reference"), networks)
            for name, redraw in redraws.items():
                redrawn = Reconstructions(
                    self.reference, redraw, self.device, self.config.chunk, networks.perceptual
                )
                seen = self._seen(progress(redrawn, name), networks)
                figures = distances(seen, real, networks.extractors)
                figures |= {**redrawn.figures(), **redraw.figures()}
                row = {"name": name, "tokenizer": None, "figures": figures, "sha256": seen.sha256}
                rows.append(row)
                shown.append(torch.stack(redrawn.shown, 1))  # (2, n, 3, H, W)
        for row, candidate, tokenizer in zip(rows, self.candidates, tokenizers):
            row["tokenizer"] = {
                "name": tokenizer.name,
                "fingerprint": tokenizer.fingerprint,
                "weights": candidate.config.weights or "fetched",
                "codes": tokenizer.codebook_size,
                "stride": tokenizer.stride,
            }
        record = {**self._facts(real, networks), "rows": rows}
        record["notes"] += self._few_tokens(real.count)
        self._write(record)
        if self.grid:
            images = torch.cat([shown[0][0], *(drawn for _, drawn in shown)])
            save_grid(images, self.grid, columns=len(shown[0][0]))
        return to_markdown(record)

    def _grids(self) -> list[tuple[int, int]]:
        """Of the tokens, each once."""
        strides = [candidate.described.stride for candidate in self.candidates]
        sides = [self.config.image_size // stride for stride in strides]
        return [(side, side) for side in dict.fromkeys(sides)]

    def _few_tokens(self, count: int) -> list[str]:
        """Notes on tokenizers with more codes than `count` images have tokens."""
        found = (
            few_tokens(
                count * (self.config.image_size // candidate.described.stride) ** 2,
                candidate.described.codebook_size,
                candidate.value,
            )
            for candidate in self.candidates
        )
        return [note for note in found if note]

    def _open_networks(self) -> Networks:
        inception = open_inception(self.config.inception, self.device)
        vgg = VGG.open(self.config.vgg)
        return Networks(
            [load_feature_network(), *([inception] if inception else [])],
            open_perceptual(vgg, self.device) if vgg else None,
        )

    def _seen(self, images: Iterable[Tensor], networks: Networks) -> Seen:
        return Seen(images, len(self.reference), networks.extractors)

    def _facts(self, real: Seen, networks: Networks) -> Record:
        extractors, perceptual = networks
        looking = [*extractors, *([perceptual] if perceptual else [])]
        unreadable = dict(self.reference.unreadable)
        return {
            "format": FORMAT,
            "reference": {
                "name": self.reference.name,
                "sha256": real.sha256,
                "count": real.count,
                "split": self.reference.split,
                "image_size": self.config.image_size,
                "unreadable": unreadable,
            },
            "features": {network.name: network.sha256 for network in looking},
            "chunk": self.config.chunk,
            "precision": self._precision(),
            "device": describe_device(self.device),
            "seed": None,  # nothing is drawn
            "versions": {**versions(), "lpips": version("lpips")},
            "notes": notes(networks, real.count, len(unreadable)),
        }

    def _precision(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def _write(self, record: Record) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.table, to_markdown(record).encode())
        replace_file(self.out, to_json(record) + b"\n")


def few_tokens(tokens: int, codes: int, name: str) -> str:
    """What a reader must know of the usage of so many codes by so many tokens, "" for nothing."""
    if tokens >= codes:
        return ""
    return (
        f"Usage of {name} is at most {tokens / codes:.2g} here: {tokens:,} tokens of {codes:,} "
        "codes; give more images, or larger ones."
    )


def notes(networks: Networks, count: int, unreadable: int) -> list[str]:
    """What a reader must know of the figures of `count` images, and how to get missing ones."""
    found = [MEASURED]
    has_rfid = any(distance_name(network) == "rFID" for network in networks.extractors)
    if has_rfid and count < FEW:
        found.append(f"An rFID of {count:,} images is larger than published ones, of 50,000.")
    if not has_rfid:
        found.append(
            "No rFID, which needs the released Inception network: inception=download fetches it "
            "(91 MB), inception=FILE names it."
        )
    if not (networks.perceptual and networks.perceptual.is_official):
        found.append(
            "No LPIPS, which needs torchvision's VGG-16: vgg=download fetches it (528 MB), "
            "vgg=FILE names it."
        )
    if unreadable:
        found.append(f"Unreadable images: {unreadable}; their neighbours stand in for them.")
    return found


def to_markdown(record: Record) -> str:
    """The record as a table: a row for each tokenizer, what stands beside it in the heading."""
    reference, rows = record["reference"], record["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    cells = [["", *names]]
    cells += [[row["name"], *(_number(row["figures"].get(name)) for name in names)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    side = reference["image_size"]
    lines = [
        f"# Reconstructions of {reference['name']}",
        "",
        f"{reference['count']:,} images of {side}x{side} (sha256 {reference['sha256'][:8]}), "
        f"{record['precision']}, chunks of {record['chunk']}, {record['device']}.",
        "",
    ]
    for first, *others in cells:
        padded = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join([*lines, "", *(f"* {note}" for note in record["notes"])]) + "\n"


def describe_device(device: torch.device) -> str:
    """By its model: speeds mean nothing without."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

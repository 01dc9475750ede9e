"""The pipeline: labels -> images, with everything between. What users hold in their hands.

Stands on a weights folder (`MaskGIL/weights.py`) and on `decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from MaskGIL import editing
from MaskGIL.arguments import Seeds, read_seeds, read_settings
from MaskGIL.border import Output, as_output, check_output_type
from MaskGIL.classes import class_index
from MaskGIL.data.crops import to_uint8
from MaskGIL.decoding import OnStep, decode
from MaskGIL.device import autocast, choose_device, choose_precision, decoder_dtype
from MaskGIL.inference import make_ready
from MaskGIL.noise import random_bits
from MaskGIL.plans import OBJECTIVES, PLANS, Step, make_plan, plan_kind
from MaskGIL.predictor import PREDICTORS
from MaskGIL.sampling import SamplingConfig
from MaskGIL.weights import Weights, load_weights
from Network.condition import Captions
from Network.config import UserError
from Network.gpt import GPT
from Network.tokenizer.vq import VQTokenizer

StepCallback = Callable[["Pipeline", int, dict[str, Tensor]], None]


class Pipeline:
    """Samples images of classes.

    pipe = Pipeline.from_pretrained("runs/demo/generator/weights")
    pipe(class_labels=["red circle"], generator=0).images[0].save("circle.png")
    """

    def __init__(
        self,
        network: GPT,
        tokenizer: VQTokenizer,
        classes: Sequence[str] = (),
        sampling: SamplingConfig | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        objective: str = "mar",
        ar_network: GPT | None = None,
    ):
        """`objective` is what the network was trained for, and says how it may be decoded.

        An `ar_network` of the same codes, classes and grid answers raster steps in its stead.
        """
        self.network, self.tokenizer = network.eval(), tokenizer.eval()
        self.classes, self.sampling = list(classes), sampling or SamplingConfig()
        self.dtype, self.objective = dtype, "both" if ar_network else objective
        self.networks = dict.fromkeys(OBJECTIVES[objective], network)  # by kind of step
        self.compiled = False
        if ar_network:
            self.networks["ar"] = ar_network.eval()

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that the network was trained on."""
        height, width = self.network.config.grid
        return height * self.tokenizer.stride, width * self.tokenizer.stride

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        *,
        ema: bool = True,
        ar_folder: str | Path | None = None,
        compile: bool = False,
    ) -> Pipeline:
        """Load a weights folder; the averaged weights unless `ema` is False.

        `ar_folder` holds a second network, for the raster steps of plan=hybrid and plan=ar. Device
        and dtype default to the best that is there; the networks are cast to that dtype for good,
        and with `compile` their blocks are compiled when they are first used. Raises UserError if a
        folder cannot be read, if the two do not go together, and if nothing is there to compile
        with.
        """
        place = choose_device(str(device or "auto"))
        weights = load_weights(folder, ema=ema)
        if weights.network is None:
            raise UserError(f"{folder} holds a tokenizer, no generator; give weights=RUN/weights.")
        network, tokenizer = weights.network.to(place), weights.tokenizer.to(place)
        ar_network = _ar_network(ar_folder, weights, folder, ema) if ar_folder else None
        dtype = dtype or choose_precision("auto", place)
        pipe = cls(
            network,
            tokenizer,
            weights.classes,
            weights.sampling,
            dtype=dtype,
            objective=weights.objective,
            ar_network=ar_network and ar_network.to(place),
        )
        for each in {pipe.network, *pipe.networks.values()}:
            make_ready(each, dtype, compile)
        pipe.compiled = compile
        return pipe

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Seeds = 0,
        height: int | None = None,
        width: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: str = "pil",
        **sampling: object,
    ) -> Output:
        """Sample one image per class label (numbers or names; None: one unconditional image).

        `generator` is a seed, a torch.Generator, one of these per image, or None for a random seed:
        the noise of an image depends on its seed alone, not on the batch it is in. `height` and
        `width` are pixels, `output_type` is "pil" or "uint8"; further keywords replace sampler
        settings. The callback gets (pipeline, step, {"tokens": (B, h, w), "confidence": (B, h,
        w)}); the latter are the log-probabilities that tokens were drawn with, -inf where they are
        hidden. Raises UserError for what is out of range.
        """
        check_output_type(output_type)
        labels = self.labels(class_labels)
        settings = self.settings(num_inference_steps, guidance_scale=guidance_scale, **sampling)
        grid = self.grid(height, width)
        seeds = self.seeds(generator, len(labels))

        def on_step(step: int, tokens: Tensor, confidence: Tensor) -> None:
            if callback_on_step_end:
                callback_on_step_end(self, step, {"tokens": tokens, "confidence": confidence})

        tokens = self.sample_tokens(labels, seeds, settings, grid, on_step)
        return as_output(to_uint8(self.pixels(tokens)), tokens, output_type)

    # Edits are functions of a pipeline, in a file of their own; here they are its methods
    inpaint = editing.inpaint
    outpaint = editing.outpaint
    vary = editing.vary
    interpolate = editing.interpolate

    @torch.no_grad()
    def sample_tokens(
        self,
        labels: Tensor | Captions,
        seeds: Tensor,
        settings: SamplingConfig | None = None,
        grid: tuple[int, int] | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Labels (B,) and seeds (B,), int64 -> tokens (B, h, w), decoded from an empty grid."""
        grid = grid or self.network.config.grid
        empty = torch.full((len(labels), *grid), self.network.mask_id, device=self.device)
        return self.fill_tokens(empty, labels, seeds, settings, on_step)

    @torch.no_grad()
    def fill_tokens(
        self,
        tokens: Tensor,
        labels: Tensor | Captions,
        seeds: Tensor,
        settings: SamplingConfig | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Tokens (B, h, w), hidden where they are the mask token -> the same with those drawn.

        Labels (B,) may also be shares of classes (B, num_classes + 1), floating.
        """
        settings, grid = settings or self.sampling, (tokens.shape[1], tokens.shape[2])
        steps, plan = self.plan(settings, grid), plan_kind(self.objective, settings.plan)
        if not self.network.config.is_conditional:  # there is nothing to be guided away from
            settings = replace(settings, guidance_scale=1.0)
        predictors = {
            kind: PREDICTORS[kind](self.networks[kind], labels, settings) for kind in PLANS[plan]
        }
        with autocast(self.device, self.dtype):
            return decode(
                predictors,
                tokens,
                steps,
                seeds,
                mask_id=self.network.mask_id,
                sampling=settings,
                on_step=on_step,
            )

    def settings(self, num_inference_steps: int | None = None, **changes: Any) -> SamplingConfig:
        """The sampler of the weights with what a call changes; None leaves a setting."""
        given = {"num_inference_steps": num_inference_steps, **changes}
        return self.sampling.changed(**read_settings(given, self.network.config.is_conditional))

    def plan(
        self, settings: SamplingConfig | None = None, grid: tuple[int, int] | None = None
    ) -> list[Step]:
        """The decoding steps of an image. Raises UserError for settings that it cannot have."""
        height, width = grid or self.network.config.grid
        return make_plan(height * width, settings or self.sampling, self.objective)

    @torch.no_grad()
    def pixels(self, tokens: Tensor, clamp: bool = True) -> Tensor:
        """Tokens (B, h, w) -> images (B, 3, H, W), in [-1, 1] if clamped.

        The decoder never runs in fp16.
        """
        with autocast(self.device, decoder_dtype(self.dtype)):
            return self.tokenizer.decode(tokens, clamp).float()

    def labels(self, class_labels: int | str | Sequence[int | str] | None) -> Tensor:
        """Class numbers or names -> labels (B,) int64 on the device. Raises UserError."""
        null = self.network.null_label
        if class_labels is None:
            return torch.tensor([null], device=self.device)
        given: Any = class_labels
        if isinstance(given, Tensor | np.ndarray):
            given = given.tolist()
        if isinstance(given, str) or not isinstance(given, Sequence):
            given = [given]
        numbers = [class_index(label, self.classes, null) for label in given]
        if not numbers:
            raise UserError("class_labels is empty; name a class, or leave it out.")
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    def grid(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in tokens of images of so many pixels; None: as the network learned.

        Raises UserError unless they are multiples of the stride, and where a network has learned
        the places of another size.
        """
        stride, learned = self.tokenizer.stride, self.image_size
        height = learned[0] if height is None else height
        width = learned[1] if width is None else width
        if height % stride or width % stride or min(height, width) < stride:
            raise UserError(f"height={height} and width={width} must be multiples of {stride}.")
        if self.network.config.learns_places and (height, width) != learned:
            raise UserError(
                f"This generator has learned the places of {learned[0]}x{learned[1]} pixels; "
                "leave height and width out."
            )
        return height // stride, width // stride

    def seeds(self, generator: Seeds, count: int) -> Tensor:
        """Seeds (B,) of `count` images as `read_seeds` has them. Raises UserError as it does."""
        found = read_seeds(generator, count)
        if isinstance(found, int):
            return image_seeds(found, torch.arange(count, device=self.device))
        return torch.tensor(found, dtype=torch.int64, device=self.device)


def image_seeds(seed: int, indices: Tensor) -> Tensor:
    """Seeds (B,) of the images `indices` (B,) of the sample set number `seed`."""
    return random_bits(torch.full((), seed, device=indices.device), "seed", 0, indices)


def _ar_network(folder: str | Path, beside: Weights, source: str | Path, ema: bool) -> GPT:
    """The network of AR weights that go with the masked ones of `source`. Raises UserError."""
    found, masked = load_weights(folder, ema=ema), beside.network
    if found.network is None:
        raise UserError(f"ar_weights={folder} holds a tokenizer, no generator; name RUN/weights.")
    if "ar" not in OBJECTIVES[found.objective]:
        raise UserError(
            f"ar_weights={folder} were trained with objective={found.objective}; name weights of "
            "an AR network."
        )
    if "mar" not in OBJECTIVES[beside.objective]:
        raise UserError(
            f"weights={source} are those of an AR network, as ar_weights are; name weights that "
            "were trained with masks."
        )
    assert masked is not None
    config, other = masked.config, found.network.config
    pairs = {
        "tokenizer": (beside.tokenizer.fingerprint, found.tokenizer.fingerprint),
        "codebook": (config.codebook_size, other.codebook_size),
        "number of classes": (config.num_classes, other.num_classes),
        "list of classes": (beside.classes, found.classes),
        "grid": (config.grid, other.grid),
    }
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise UserError(
                f"ar_weights={folder} have another {name} than weights={source}; both networks "
                "must make the same tokens of the same classes."
            )
    return found.network

"""The pipeline: classes or prompts -> images, with everything between. What users hold in hands.

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
from MaskGIL.arguments import Seeds, read_seeds, read_setting, read_settings
from MaskGIL.border import Output, as_output, check_output_type
from MaskGIL.classes import class_index
from MaskGIL.data.crops import to_uint8
from MaskGIL.decoding import OnStep, decode
from MaskGIL.device import autocast, choose_device, choose_precision, decoder_dtype
from MaskGIL.inference import make_ready
from MaskGIL.noise import random_bits
from MaskGIL.plans import OBJECTIVES, PLANS, Step, make_plan, plan_kind
from MaskGIL.predictor import PREDICTORS, Condition
from MaskGIL.prompting import PromptEncoder, Prompts, check_kind, read_texts
from MaskGIL.sampling import SamplingConfig
from MaskGIL.second_network import load_second
from MaskGIL.text_source import TextOrigin
from MaskGIL.weights import load_weights
from Network.condition import Captions
from Network.config import UserError
from Network.gpt import GPT
from Network.tokenizer.vq import VQTokenizer

Labels = int | str | Sequence[int | str] | None
StepCallback = Callable[["Pipeline", int, dict[str, Tensor]], None]


class Pipeline:
    """Samples images of classes, or of prompts.

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
        text: TextOrigin | None = None,
        text_encoder: str | None = None,
    ):
        """`objective` is what the network was trained for, and says how it may be decoded.

        An `ar_network` of the same codes, classes and grid answers raster steps in its stead.
        `text` tells which encoder made the captions that a network of prompts has learned from, and
        `text_encoder` where it is, a folder or a name, if not under its own name.
        """
        self.network, self.tokenizer = network.eval(), tokenizer.eval()
        self.classes, self.sampling = list(classes), sampling or SamplingConfig()
        self.dtype, self.objective = dtype, "both" if ar_network else objective
        self.networks = dict.fromkeys(OBJECTIVES[objective], network)  # by kind of step
        self.compiled = False
        if ar_network:
            self.networks["ar"] = ar_network.eval()
        self.text, self._encode = text, PromptEncoder(network, text, text_encoder)

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
        text_encoder: str | Path | None = None,
        compile: bool = False,
    ) -> Pipeline:
        """Load a weights folder; the averaged weights unless `ema` is False.

        `ar_folder` holds a second network, for the raster steps of plan=hybrid and plan=ar, and
        `text_encoder` says where that of the prompts is, if not under its own name. Device and
        dtype default to the best that is there; the networks are cast to that dtype for good, and
        with `compile` their blocks are compiled when they are first used. Raises UserError if a
        folder cannot be read, if the two do not go together, for a text encoder without prompts,
        and if nothing is there to compile with.
        """
        place = choose_device(str(device or "auto"))
        weights = load_weights(folder, ema=ema)
        if weights.network is None:
            raise UserError(f"{folder} holds a tokenizer, no generator; give weights=RUN/weights.")
        network, tokenizer = weights.network.to(place), weights.tokenizer.to(place)
        ar_network = load_second(ar_folder, weights, folder, ema) if ar_folder else None
        dtype = dtype or choose_precision("auto", place)
        pipe = cls(
            network,
            tokenizer,
            weights.classes,
            weights.sampling,
            dtype=dtype,
            objective=weights.objective,
            ar_network=ar_network and ar_network.to(place),
            text=weights.text,
            text_encoder=str(text_encoder) if text_encoder else None,
        )
        for each in {pipe.network, *pipe.networks.values()}:
            make_ready(each, dtype, compile)
        pipe.compiled = compile
        return pipe

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        *,
        prompt: Prompts | None = None,
        negative_prompt: Prompts | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Seeds = 0,
        height: int | None = None,
        width: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: str = "pil",
        **sampling: object,
    ) -> Output:
        """Sample one image per class label (a number or a name) or prompt; None: one of anything.

        Guidance leads away from `negative_prompt`, one for all or one per prompt; without guidance
        it has no effect. `generator` is a seed, a torch.Generator, one of these per image, or None
        for a random seed: the noise of an image depends on its seed alone, not on the batch it is
        in. `height` and `width` are pixels, `output_type` is "pil" or "uint8"; further keywords
        replace sampler settings. The callback gets (pipeline, step, {"tokens": (B, h, w),
        "confidence": (B, h, w)}); the latter are the log-probabilities that tokens were drawn with,
        -inf where they are hidden. Raises UserError for what is out of range.
        """
        check_output_type(output_type)
        settings = self.settings(num_inference_steps, guidance_scale=guidance_scale, **sampling)
        grid = self.grid(height, width)
        condition, null = self.condition(class_labels, prompt, negative_prompt)
        seeds = self.seeds(generator, len(condition))
        on_step = self.on_step(callback_on_step_end)
        tokens = self.sample_tokens(condition, seeds, settings, grid, on_step, null)
        return as_output(to_uint8(self.pixels(tokens)), tokens, output_type)

    # Edits are functions of a pipeline, in a file of their own; here they are its methods
    inpaint = editing.inpaint
    outpaint = editing.outpaint
    vary = editing.vary
    interpolate = editing.interpolate

    @torch.no_grad()
    def sample_tokens(
        self,
        condition: Condition,
        seeds: Tensor,
        settings: SamplingConfig | None = None,
        grid: tuple[int, int] | None = None,
        on_step: OnStep | None = None,
        null: Condition | None = None,
    ) -> Tensor:
        """Labels or captions and seeds (B,) int64 -> tokens (B, h, w), from an empty grid."""
        grid = grid or self.network.config.grid
        empty = torch.full((len(condition), *grid), self.network.mask_id, device=self.device)
        return self.fill_tokens(empty, condition, seeds, settings, on_step, null)

    @torch.no_grad()
    def fill_tokens(
        self,
        tokens: Tensor,
        condition: Condition,
        seeds: Tensor,
        settings: SamplingConfig | None = None,
        on_step: OnStep | None = None,
        null: Condition | None = None,
    ) -> Tensor:
        """Tokens (B, h, w), hidden where they are the mask token -> the same with those drawn.

        The condition is labels (B,), shares of classes (B, num_classes + 1), floating, or captions
        of B images; guidance leads away from `null`, None for the null condition.
        """
        settings, grid = settings or self.sampling, (tokens.shape[1], tokens.shape[2])
        steps, plan = self.plan(settings, grid), plan_kind(self.objective, settings.plan)
        if null is None and self.network.condition.is_null(condition):  # guided from nothing to it
            settings = replace(settings, guidance_scale=1.0)
        predictors = {
            kind: PREDICTORS[kind](self.networks[kind], condition, settings, null)
            for kind in PLANS[plan]
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

    def on_step(self, callback: StepCallback | None) -> OnStep | None:
        """What `decode` calls, of the callback of a call."""
        if callback is None:
            return None
        return lambda step, tokens, confidence: callback(
            self, step, {"tokens": tokens, "confidence": confidence}
        )

    def settings(self, num_inference_steps: int | None = None, **changes: Any) -> SamplingConfig:
        """The sampler of the weights with what a call changes; None leaves a setting."""
        given = {"num_inference_steps": num_inference_steps, **changes}
        return self.sampling.changed(**read_settings(given))

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

    def condition(
        self,
        class_labels: Labels = None,
        prompt: Prompts | None = None,
        negative_prompt: Prompts | None = None,
    ) -> tuple[Condition, Captions | None]:
        """Labels (B,) or captions of B images, and what guidance leads away from: None, or as many.

        Of weights that know prompts None is the empty one. Raises UserError for classes where the
        weights know prompts, and the reverse, and for another number of negative prompts.
        """
        config = self.network.config
        check_kind(config, class_labels, prompt=prompt, negative_prompt=negative_prompt)
        if not config.caption_width:
            return self.labels(class_labels), None
        texts = read_texts("prompt", "" if prompt is None else prompt)
        captions = self.encode_prompts(texts)
        if negative_prompt is None:
            return captions, None
        others = read_texts("negative_prompt", negative_prompt)
        if len(others) not in (1, len(texts)):
            raise UserError(
                f"There are {len(others)} negative prompts for {len(texts)} prompts; give one for "
                "each, or one for all."
            )
        return captions, self._encode.against(others * (len(texts) // len(others)), captions)

    def encode_prompts(self, prompts: Sequence[str]) -> Captions:
        """Captions of B texts on the device, by the text encoder that the weights name.

        It is loaded at the first call. Raises UserError if it cannot be had or is another one.
        """
        return self._encode(read_texts("prompt", prompts))

    def labels(self, class_labels: Labels) -> Tensor:
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

        Raises UserError unless they are multiples of the stride, for too many pixels, and where a
        network has learned the places of another size.
        """
        stride, learned = self.tokenizer.stride, self.image_size
        asked = {"height": height, "width": width}
        sides: list[int] = [
            usual if side is None else read_setting(name, side, int)
            for (name, side), usual in zip(asked.items(), learned)
        ]
        for name, side in zip(asked, sides):
            if side % stride or side < stride:
                raise UserError(_sides_near(name, side, stride))
        if sides[0] * sides[1] > editing.MOST_PIXELS:
            raise UserError(
                f"height={sides[0]} and width={sides[1]} are {sides[0] * sides[1]:,} pixels, more "
                f"than {editing.MOST_PIXELS:,}; ask for fewer."
            )
        if self.network.config.learns_places and sides != [*learned]:
            raise UserError(
                f"This generator has learned the places of {learned[0]}x{learned[1]} pixels; "
                "leave height and width out."
            )
        return sides[0] // stride, sides[1] // stride

    def seeds(self, generator: Seeds, count: int) -> Tensor:
        """Seeds (B,) of `count` images as `read_seeds` has them. Raises UserError as it does."""
        found = read_seeds(generator, count)
        if isinstance(found, int):
            return image_seeds(found, torch.arange(count, device=self.device))
        return torch.tensor(found, dtype=torch.int64, device=self.device)


def image_seeds(seed: int, indices: Tensor) -> Tensor:
    """Seeds (B,) of the images `indices` (B,) of the sample set number `seed`."""
    return random_bits(torch.full((), seed, device=indices.device), "seed", 0, indices)


def _sides_near(name: str, side: int, stride: int) -> str:
    """The sentence for a side of an image that is no multiple of the stride."""
    below = side // stride * stride
    near = f"are {below} and {below + stride}" if below > 0 else f"is {stride}"
    return f"{name}={side} must be a multiple of {stride}; the nearest {near}."

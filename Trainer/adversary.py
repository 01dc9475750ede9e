"""Adversarial training of a tokenizer: what it and its discriminator are told to do.

Facts from taming-transformers (3ba01b24), LlamaGen (ce98ec41) and SEED-Voken (b9a17eac). Logits
are (B, 1, h, w), one per patch, above 0 for what the discriminator takes for real.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from MaskGIL.distributed import all_reduce, world_size
from MaskGIL.values import show_value
from Network.config import UserError
from Network.tokenizer.discriminator import PatchDiscriminator
from Trainer.config import AdversaryConfig

MEMORY = 0.999  # of LeCam's means
MOST_ADAPTIVE = 1e4


class Verdicts(NamedTuple):
    """Logits of one batch: of real images, of drawn ones, and of these as their drawer hears it.

    The first two teach the discriminator, the last teaches the tokenizer; neither reaches the
    other, so one backward pass serves both.
    """

    real: Tensor
    drawn: Tensor
    heard: Tensor


def refuse_useless(config: AdversaryConfig) -> None:
    """Raise UserError for keys of a contest that does not take place."""
    of_contest = {"start": config.start, "adaptive": config.adaptive, "lecam": config.lecam}
    for key, value in of_contest.items():
        if value and not config.weight:
            raise UserError(
                f"adversary.{key}={show_value(value)} does nothing with adversary.weight=0; give "
                "a weight, or leave it out."
            )


def build_discriminator(config: AdversaryConfig, image_size: int) -> PatchDiscriminator | None:
    """The discriminator that `config` asks for. Raises UserError for images without a patch."""
    if not config.weight:
        return None
    if image_size < (smallest := PatchDiscriminator.smallest_side(config.depth)):
        raise UserError(
            f"data.image_size={image_size} is too small for a discriminator of adversary.depth="
            f"{config.depth}, which needs {smallest}; lower adversary.depth."
        )
    return PatchDiscriminator(config.width, config.depth)


def verdicts(discriminator: nn.Module, images: Tensor, drawn: Tensor) -> Verdicts:
    """What the discriminator says of images and drawn images (B, 3, H, W)."""
    frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
    heard = functional_call(discriminator, frozen, (drawn,))
    return Verdicts(discriminator(images), discriminator(drawn.detach()), heard)


def tokenizer_term(kind: str, heard: Tensor) -> Tensor:
    """Small when drawn images pass for real.

    `hinge`: minus the mean logit. `non-saturating`: softplus of minus the mean logit of an image,
    as in Open-MAGVIT2; the same as per logit where an image has a single one.
    """
    heard = heard.float()
    return -heard.mean() if kind == "hinge" else F.softplus(-heard.mean((1, 2, 3))).mean()


def discriminator_term(kind: str, real: Tensor, drawn: Tensor) -> Tensor:
    """Small when real and drawn images are told apart; both kinds with the customary half."""
    lifted, pressed = -real.float(), drawn.float()
    if kind == "hinge":
        return 0.5 * (F.relu(1 + lifted).mean() + F.relu(1 + pressed).mean())
    return 0.5 * (F.softplus(lifted).mean() + F.softplus(pressed).mean())


def logit_means(found: Verdicts) -> Tensor:
    """Means (2,) of the logits of real and of drawn images."""
    return torch.stack([found.real.detach().float().mean(), found.drawn.detach().float().mean()])


def moved_means(means: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Means (2,) that LeCam remembers, moved towards those of the parts of a step on all ranks."""
    latest = all_reduce(torch.stack([*parts]).mean(0)) / world_size()
    return torch.lerp(latest, means, MEMORY)


def lecam_term(means: Tensor, real: Tensor, drawn: Tensor) -> Tensor:
    """LeCam regularisation (Tseng et al., 2021, eq. 3): logits stay near the others' mean (2,).

    One-sided, as Open-MAGVIT2 has it: only what goes beyond the mean counts. There the means have
    moved by a thousandth towards the batch before; here they move once a step, behind it.
    """
    mean_real, mean_drawn = means
    beyond = F.relu(real.float() - mean_drawn), F.relu(mean_real - drawn.float())
    return beyond[0].square().mean() + beyond[1].square().mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """How much more the first loss moves the decoder's last kernel than the second one does.

    At most 1e4 (Esser et al., 2021, eq. 7). Neither gradient is kept.
    """
    norms = [
        torch.autograd.grad(term, last, retain_graph=True)[0].norm()
        for term in (reconstruction, adversarial)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(max=MOST_ADAPTIVE).detach()

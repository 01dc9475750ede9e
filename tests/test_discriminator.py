"""The PatchGAN. Names and shapes: taming-transformers' 1024-code checkpoint (3ba01b24), whose keys
`loss.discriminator.*` are listed in the goldens' manifest."""

import pytest
import torch

from Network.tokenizer.discriminator import PatchDiscriminator

LISTED = {
    "main.0.weight": (64, 3, 4, 4), "main.0.bias": (64,),
    "main.2.weight": (128, 64, 4, 4), "main.5.weight": (256, 128, 4, 4),
    "main.8.weight": (512, 256, 4, 4),
    "main.11.weight": (1, 512, 4, 4), "main.11.bias": (1,),
} | {
    f"main.{layer}.{name}": shape
    for layer, width in ((3, 128), (6, 256), (9, 512))
    for name, shape in [
        *((name, (width,)) for name in ("weight", "bias", "running_mean", "running_var")),
        ("num_batches_tracked", ()),
    ]
}  # fmt: skip


def test_names_and_shapes_are_those_of_taming_transformers():
    found = PatchDiscriminator().state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == LISTED


def test_a_picture_of_256_pixels_has_30_by_30_patches():
    """Isola et al., 2017: three layers see patches of 70 pixels."""
    with torch.device("meta"):
        found = PatchDiscriminator()(torch.empty(2, 3, 256, 256))
    assert found.shape == (2, 1, 30, 30)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_smallest_picture_has_one_patch(depth):
    side = PatchDiscriminator.smallest_side(depth)
    network = PatchDiscriminator(2, depth).eval()
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 1, 1, 1)
    with pytest.raises(RuntimeError):
        network(torch.zeros(2, 3, side - 1, side - 1))


def test_how_it_begins():
    """DCGAN's initialisation: deviation 0.02, gains about 1."""
    torch.manual_seed(0)
    network = PatchDiscriminator()
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
    gains = network.main[3].weight
    assert gains.mean().item() == pytest.approx(1, abs=0.01)
    assert gains.std().item() == pytest.approx(0.02, rel=0.3)


def test_a_gradient_reaches_every_parameter():
    network = PatchDiscriminator(4, 2)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network(images).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name

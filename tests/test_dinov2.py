"""DINOv2 with filled weights of its smallest network; the released weights were never at hand."""

import hashlib

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from timm.models import get_pretrained_cfg

from Metrics import dinov2, pretrained
from Metrics.dinov2 import (
    ARCHITECTURES,
    DINOV2,
    MEAN,
    STD,
    Dinov2Network,
    open_dinov2,
    preprocessed,
    resized_positions,
)
from Network.config import UserError

CPU = torch.device("cpu")
WIDTH, DEPTH, HEADS = 384, 12, 6
SIDE_OF_POSITIONS = 37  # the released networks were last trained at 518 pixels


@pytest.fixture(scope="module")
def state():
    """Tensors of all names and shapes of dinov2_vits14_pretrain.pth, every one of them felt."""
    random = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "mask_token": (1, WIDTH),
        "pos_embed": (1, 1 + SIDE_OF_POSITIONS**2, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    for block in (f"blocks.{number}." for number in range(DEPTH)):
        for name, outputs, inputs in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            shapes[f"{block}{name}.weight"] = (outputs, inputs)
            shapes[f"{block}{name}.bias"] = (outputs,)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[block + name] = (WIDTH,)
        shapes |= {f"{block}ls1.gamma": (WIDTH,), f"{block}ls2.gamma": (WIDTH,)}
    scale = {name: 0.1 if len(shape) > 1 else 0.5 for name, shape in shapes.items()}
    return {
        name: torch.randn(shape, generator=random) * scale[name] for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    file = tmp_path_factory.mktemp("dinov2") / "filled.pth"
    torch.save(state, file)
    return file


@pytest.fixture(scope="module")
def network(weights):
    return Dinov2Network(weights, CPU)


@pytest.fixture(scope="module")
def images():
    random = torch.Generator().manual_seed(1)
    return torch.randint(256, (2, 3, 96, 64), generator=random, dtype=torch.uint8)


def cubic(positions, scale):
    """(D, 37, 37) -> (D, 16, 16) by Keys' kernel at a = -0.75, edges repeated, axis by axis."""
    for _ in range(2):
        place = (np.arange(16) + 0.5) / scale - 0.5
        first = np.floor(place).astype(int)
        total = 0
        for shift in (-1, 0, 1, 2):
            far = np.abs(place - (first + shift))
            near = 1.25 * far**3 - 2.25 * far**2 + 1
            wide = -0.75 * (far**3 - 5 * far**2 + 8 * far - 4)
            row = positions[:, np.clip(first + shift, 0, positions.shape[1] - 1)]
            total = total + np.where(far <= 1, near, wide)[:, None] * row
        positions = total.swapaxes(1, 2)
    return positions


def expected_features(state, images):
    """The class token as the paper has it (Dosovitskiy et al. 2021; layer scale: Touvron 2021)."""
    at = {name: tensor.double() for name, tensor in state.items()}
    square = at["pos_embed"][0, 1:].T.reshape(WIDTH, SIDE_OF_POSITIONS, -1).numpy()
    of_patches = torch.from_numpy(cubic(square, 16.1 / SIDE_OF_POSITIONS)).flatten(1).T  # (256, D)
    patches = images.double().unfold(2, 14, 14).unfold(3, 14, 14)  # (B, 3, 16, 16, 14, 14)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # (B, 256, 588)
    x = patches @ at["patch_embed.proj.weight"].flatten(1).T + at["patch_embed.proj.bias"]
    of_class = (at["cls_token"] + at["pos_embed"][:, :1]).expand(len(x), 1, WIDTH)
    x = torch.cat([of_class, x + of_patches], 1)  # (B, 257, D)

    def linear(name, x):
        return x @ at[f"{name}.weight"].T + at[f"{name}.bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        return x * at[f"{name}.weight"] + at[f"{name}.bias"]

    for block in (f"blocks.{number}." for number in range(DEPTH)):
        qkv = linear(f"{block}attn.qkv", norm(f"{block}norm1", x))
        q, k, v = qkv.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # (B, H, 257, D / H)
        mixed = ((q @ k.mT) / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v
        mixed = linear(f"{block}attn.proj", mixed.transpose(1, 2).flatten(2))
        x = x + at[f"{block}ls1.gamma"] * mixed
        hidden = linear(f"{block}mlp.fc1", norm(f"{block}norm2", x))
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + at[f"{block}ls2.gamma"] * linear(f"{block}mlp.fc2", hidden)
    return norm("norm", x)[:, 0]


def test_features_are_those_of_the_paper_s_formulas(network, state, images):
    features = network(images)
    assert (features.shape, features.dtype) == ((2, WIDTH), torch.float32)
    expected = expected_features(state, preprocessed(images))
    assert expected.std(0).mean() > 1e-2  # the images are felt
    torch.testing.assert_close(features.double(), expected, rtol=0, atol=1e-5)
    assert torch.allclose(network(images[:1]), features[:1], atol=1e-5)


def test_all_networks_take_the_tensors_of_the_released_files(state):
    for width, architecture in ARCHITECTURES.items():
        with torch.device("meta"):
            made = timm.create_model(architecture.timm_name, num_classes=0)
        shapes = {name: tensor.shape for name, tensor in made.state_dict().items()}
        assert shapes["cls_token"] == (1, 1, width)
        assert shapes["pos_embed"] == (1, 1370, width)  # 518 pixels
        if width == WIDTH:
            assert shapes == {k: v.shape for k, v in state.items() if k != "mask_token"}
        assert get_pretrained_cfg(architecture.timm_name).url.endswith(
            f"/dinov2_{architecture.name}_pretrain.pth"
        )
    assert DINOV2.url == get_pretrained_cfg("vit_large_patch14_dinov2").url


def test_pixels_are_resized_as_pillow_does_it_without_rounding(images):
    found = preprocessed(images)
    for image, ours in zip(images, found):
        for channel, own, mean, std in zip(image.numpy(), ours, MEAN, STD):
            plane = Image.fromarray(channel.astype(np.float32))
            resized = np.asarray(plane.resize((224, 224), Image.Resampling.BICUBIC))
            expected = torch.from_numpy((resized / 255 - mean) / std)
            torch.testing.assert_close(own, expected, rtol=0, atol=1e-4)


def test_pixels_are_those_of_timm_but_for_its_rounding(images):
    images = 64 + images // 2  # it also clips what a cubic overshoots
    transform = create_transform(
        (3, 224, 224), interpolation="bicubic", mean=MEAN, std=STD, crop_pct=1, crop_mode="squash"
    )
    theirs = [transform(Image.fromarray(x.permute(1, 2, 0).numpy())) for x in images]
    difference = (preprocessed(images) - torch.stack(theirs)).abs().max()
    assert difference < 1.5 / 255 / min(STD)
    assert (MEAN, STD) == (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)


def test_positions_of_another_grid_are_those_of_the_released_code(state):
    positions = state["pos_embed"]
    resized = resized_positions(positions)
    assert resized.shape == (1, 257, WIDTH)
    assert torch.equal(resized[:, 0], positions[:, 0])
    square = positions[0, 1:].T.reshape(WIDTH, 37, 37).double().numpy()
    expected = torch.from_numpy(cubic(square, 16.1 / 37)).flatten(1).T
    torch.testing.assert_close(resized[0, 1:].double(), expected, rtol=0, atol=5e-6)
    of_timm = F.interpolate(
        positions[:, 1:].mT.unflatten(2, (37, 37)), (16, 16), mode="bicubic", antialias=True
    )
    assert (of_timm.flatten(2).mT - resized[:, 1:]).abs().max() > 0.01  # another network
    assert resized_positions(resized) is resized


def test_it_is_named_by_its_weights(network, weights, monkeypatch):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (network.sha256, network.width) == (digest, WIDTH)
    assert network.name == f"dinov2-vits14-{digest[:8]}"
    released = ARCHITECTURES[WIDTH]._replace(sha256=digest)
    monkeypatch.setitem(ARCHITECTURES, WIDTH, released)
    assert Dinov2Network(weights, CPU).name == "dinov2-vits14"


def test_a_matrix_product_may_be_coarse_around_but_not_within(network, images, monkeypatch):
    seen = []
    before = torch.get_float32_matmul_precision()

    def look(x):
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return x.flatten(1)

    monkeypatch.setattr(network, "_network", look)
    torch.set_float32_matmul_precision("high")
    try:
        network(images)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == [("highest", False)]


def test_other_weights_are_refused(state, tmp_path):
    def sentence(state):
        torch.save(state, tmp_path / "a.pth")
        with pytest.raises(UserError) as error:
            open_dinov2(str(tmp_path / "a.pth"), CPU)
        return str(error.value)

    other = "a.pth has the weights of another network; give those of DINOv2's ViT-S/14, B/14 or L/"
    assert other in sentence({"conv.weight": torch.zeros(2)})
    assert other in sentence({"cls_token": torch.zeros(1, 1, 192)})
    assert other in sentence({**state, "register_tokens": torch.zeros(1, 4, WIDTH)})
    lacking = {name: tensor for name, tensor in state.items() if name != "norm.bias"}
    assert "a.pth do not fit this architecture: missing norm.bias" in sentence(lacking)


def test_where_weights_come_from(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    fetched = []
    monkeypatch.setattr(pretrained, "fetch", lambda *words, **keys: fetched.append((words, keys)))
    monkeypatch.setattr(dinov2, "Dinov2Network", lambda weights, device: weights)
    for value in ("none", "auto"):
        assert open_dinov2(value, CPU) is None
    assert fetched == []
    open_dinov2("download", CPU)
    file = tmp_path / "hub" / "checkpoints" / "dinov2_vitl14_pretrain.pth"
    assert fetched == [((DINOV2.url, file), {"sha256": ARCHITECTURES[1024].sha256})]
    with pytest.raises(UserError, match=r"^dinov2=nowhere is no file; give one, or auto, downl"):
        open_dinov2("nowhere", CPU)

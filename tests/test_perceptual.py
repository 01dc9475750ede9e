"""LPIPS: the package's own numbers, with a VGG-16 that is made up."""

import hashlib
import os
import pickle

import lpips
import pytest
import torch
from tiny_weights import save_made_up_vgg
from torchvision.models import vgg

from Metrics.perceptual import VGG, Perceptual, open_perceptual
from Network.config import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_made_up_vgg(tmp_path_factory.mktemp("vgg") / "vgg.pth")


@pytest.fixture(scope="module")
def network(weights):
    return open_perceptual(weights, CPU)


def images(seed):
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_distances_are_those_of_the_package(network, weights, monkeypatch):
    state = torch.load(weights, weights_only=True)

    def filled(pretrained):
        model = torch.nn.Module()
        model.features = vgg.make_layers(vgg.cfgs["D"])
        model.load_state_dict(state)
        return model

    monkeypatch.setattr(lpips.pretrained_networks.tv, "vgg16", filled)
    package = lpips.LPIPS(net="vgg", verbose=False)  # reads its linear weights itself
    first, second = images(0), images(1)
    found = network(first, second)
    assert found.shape == (2,)
    assert torch.equal(found, package(first, second).flatten())
    assert found.min() > 0.01
    assert torch.equal(network(first, first), torch.zeros(2))


def test_a_gradient_reaches_both_images_and_no_weight(network):
    first, second = (images(seed).requires_grad_() for seed in (0, 1))
    network(first, second).sum().backward()
    assert first.grad.abs().max() > 0
    assert second.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_dropout_stays_off_in_a_module_that_trains(network):
    torch.nn.ModuleList([network]).train()
    assert not any(module.training for module in network.modules())


def test_a_made_up_vgg_is_named_as_such(network, weights):
    assert network.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert not network.is_official
    assert network.name == f"lpips-vgg-0.1-{network.sha256[:8]}"


def test_the_classifier_of_the_released_file_is_left_out(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, tmp_path / "whole.pth")
    for name, tensor in Perceptual(tmp_path / "whole.pth").network.net.named_parameters():
        number, kind = name.split(".")[1:]  # slice2.5.weight is torchvision's layer 5
        assert torch.equal(tensor, state[f"features.{number}.{kind}"])


def test_another_network_is_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth do not fit this architecture: missing features"):
        open_perceptual(tmp_path / "a.pth", CPU)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_code_in_a_file_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Evil(), 2))
    with pytest.raises(UserError, match=r"a\.pth is damaged, or holds code, which is never run"):
        open_perceptual(tmp_path / "a.pth", CPU)
    assert os.listdir() == ["a.pth"]


def test_the_released_file_is_known_by_its_name():
    assert VGG.files == (f"vgg16-{VGG.start}.pth",)
    assert VGG.url == vgg.VGG16_Weights.IMAGENET1K_V1.url

"""What a generator begins with; through the trainer in test_vit.py."""

import re

import pytest
import tiny
import torch
from tiny_generators import CONFIGS, official_weights, write_official

from MaskGIL.initial import CLASSES, begin_network, describe_beginning
from MaskGIL.weights import load_network, save_weights
from Network import build_network
from Network.config import UserError


@pytest.fixture
def folder(tmp_path):
    """Weights of ours; the averaged ones are the last plus 1."""
    network = tiny.network().float()
    average = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    save_weights(tmp_path / "weights", tiny.tokenizer(), network=network, average=average)
    return tmp_path / "weights"


def begun(config, source, *skip):
    torch.manual_seed(1)
    network, fresh = begin_network(config, str(source), skip)
    return network.state_dict(), fresh


def freshly(config):
    torch.manual_seed(1)
    return build_network(config).state_dict()


def same(found, expected, names):
    return all(torch.equal(found[name], expected[name]) for name in names)


def complaint(config, source, *skip):
    with pytest.raises(UserError) as error:
        begin_network(config, str(source), skip)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_from_ours(folder):
    found, fresh = begun(tiny.network_config(), folder)
    assert fresh == []
    assert same(found, load_network(folder).state_dict(), found)  # the averaged ones
    file, given = folder / "network.safetensors", tiny.network().float().state_dict()
    assert same(begun(tiny.network_config(), file)[0], given, found)


def test_other_classes_get_a_table_of_their_own(folder):
    config = tiny.network_config(num_classes=7)
    found, fresh = begun(config, folder)
    assert fresh == [CLASSES]
    assert found[CLASSES].shape == (8, 32)
    assert same(found, freshly(config), [CLASSES])
    assert same(found, load_network(folder).state_dict(), found.keys() - {CLASSES})
    assert describe_beginning("a", fresh) == f"a, but for {CLASSES}"
    assert describe_beginning("a", []) == "a"


def test_what_does_not_fit_is_told_in_five_parts(folder):
    found = complaint(tiny.network_config(width=16), folder)
    assert found.startswith(
        f"init_from={folder} does not fit this network: token_embedding.weight is 12x32, not 12x16;"
    )
    assert re.search(r" and \d+ more; give it the network section of these weights, or", found)
    assert found.count(" is ") == 5
    found = complaint(tiny.network_config(codebook_size=12), folder)
    assert "token_embedding.weight is 12x32, not 13x32; output.weight is 11x32" in found
    # Other classes are no excuse for another width
    config = tiny.network_config(width=16, num_classes=7)
    rest = ("token", "blocks", "norm", "output", "embed")
    assert f"{CLASSES} is 4x32, not 8x16" in complaint(config, folder, *rest)


def test_what_is_listed_begins_anew(folder):
    config = tiny.network_config(codebook_size=12)
    found, fresh = begun(config, folder, "token_embedding", "output.", "blocks.1.feed")
    feeds = [f"blocks.1.feed_forward.{part}.weight" for part in ("gate", "up", "down")]
    feeds.append("blocks.1.feed_forward_norm_out.weight")
    assert set(fresh) == {"token_embedding.weight", "output.weight", *feeds}
    assert same(found, freshly(config), fresh)
    assert same(found, load_network(folder).state_dict(), found.keys() - set(fresh))


def test_what_this_network_has_no_place_for_can_be_listed(folder):
    config = tiny.network_config(qk_norm=False)
    assert "unexpected blocks.0.attention.q_norm.weight" in complaint(config, folder)
    assert begun(config, folder, "*.q_norm", "*.k_norm")[1] == []


def test_parts_that_these_weights_lack_can_be_listed(folder):
    config = tiny.network_config(norm="sandwich")
    assert "missing blocks.0.attention_norm_in.weight" in complaint(config, folder)
    found, fresh = begun(config, folder, "blocks.*_norm_in")
    assert sorted(fresh) == [
        f"blocks.{block}.{branch}_norm_in.weight"
        for block in (0, 1)
        for branch in ("attention", "feed_forward")
    ]
    assert same(found, freshly(config), fresh)
    assert same(found, load_network(folder).state_dict(), found.keys() - set(fresh))


@pytest.mark.parametrize("changes", [{"heads": 4}, {"rotary": "llamagen"}])
def test_what_no_shape_tells(folder, changes):
    ((key, value),) = changes.items()
    stored = getattr(tiny.network_config(), key)
    assert complaint(tiny.network_config(**changes), folder) == (
        f"{folder} has network.{key}={stored}, but network.{key}={value} is asked for; use "
        f"network.{key}={stored}."
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_from_every_public_layout(tmp_path, name):
    file = write_official(tmp_path / "a.pt", name)
    found, fresh = begun(CONFIGS[name], file)
    assert fresh == []
    assert same(found, load_network(file, CONFIGS[name]).state_dict(), found)


@pytest.mark.parametrize("name", ["llamagen_c2i", "published", "vit", "halton"])
def test_public_weights_on_other_classes(tmp_path, name):
    """Of a table that holds codes and classes the codes are kept."""
    settings = {**vars(CONFIGS[name]), "num_classes": 4}
    config = type(CONFIGS[name])(**settings)
    found, fresh = begun(config, write_official(tmp_path / "a.pt", name))
    assert fresh == [CLASSES]
    theirs = official_weights(name)
    codes = theirs.get("tok_embeddings.weight", theirs.get("tok_emb.weight"))
    assert torch.equal(found["token_embedding.weight"][:32], codes[:32])


def test_weights_that_are_not_finite(folder):
    network = tiny.network().float()
    with torch.no_grad():
        network.norm.weight[0] = torch.nan
    state = network.state_dict()
    save_weights(folder, tiny.tokenizer(), network=network, average=state)
    assert "are not all finite: norm.weight" in complaint(tiny.network_config(), folder)


def test_nothing_is_there(tmp_path):
    assert complaint(tiny.network_config(), tmp_path / "none").startswith("No such weights folder")

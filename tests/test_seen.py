"""What is remembered of images: statistics of every network, a hash, thumbnails of a few."""

import hashlib
from functools import partial

import numpy as np
import pytest
import torch
from tiny_runs import run_ranks

from MaskGIL.data.shapes import Shapes
from MaskGIL.distributed import chunks, is_main
from MaskGIL.noise import random_bits
from Metrics import seen
from Metrics.inception import InceptionNetwork, InceptionOutputs
from Metrics.nearest import thumbnails
from Metrics.seen import Seen, in_draws


class Means:
    """The simplest feature network: mean colours."""

    name, sha256, width = "means", "0", 3

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, images):
        return images.float().mean((2, 3)) * self.factor


@pytest.fixture
def images():
    random = torch.Generator().manual_seed(0)
    return torch.randint(256, (50, 3, 16, 16), generator=random, dtype=torch.uint8)


def test_statistics_are_those_of_all_images_by_every_network(images):
    found = Seen(images.split(7), 50, [Means(), Means(2.0)])
    features = images.double().mean((2, 3))
    for statistics, factor in zip(found.statistics, (1, 2)):
        torch.testing.assert_close(statistics.mean, features.mean(0) * factor)
        torch.testing.assert_close(statistics.covariance, features.T.cov() * factor**2)
    assert found.count == 50
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    assert found.sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_draws_share_no_image_and_make_the_whole_together_with_the_rest(images):
    found = Seen(images.split(7), 50, [Means(), Means(2.0)], part_of=in_draws(50, 15))
    features = images.double().mean((2, 3))
    order = random_bits(torch.tensor(0), "order", 0, torch.arange(50)).argsort(stable=True)
    for number, rows in enumerate(order[:45].split(15)):
        draw = found.parts[0][number]
        assert draw.count == 15
        torch.testing.assert_close(draw.mean, features[rows].mean(0))
        torch.testing.assert_close(draw.covariance, features[rows].T.cov())
        torch.testing.assert_close(found.parts[1][number].mean, 2 * draw.mean)
    assert found.statistics[0].count == 50
    torch.testing.assert_close(found.statistics[0].covariance, features.T.cov())


def test_few_thumbnails_are_kept_however_many_images_there_are(images, monkeypatch):
    whole = Seen(images.split(7), 50, [], thumbnails=True)
    assert whole.kept.tolist() == list(range(50))
    torch.testing.assert_close(whole.thumbnails, thumbnails(images))
    monkeypatch.setattr(seen, "MOST_THUMBNAILS", 8)
    few = Seen(images.split(7), 50, [], thumbnails=True)
    assert few.kept.tolist() == np.linspace(0, 49, 8).astype(int).tolist()
    torch.testing.assert_close(few.thumbnails, thumbnails(images[few.kept]))


def test_thumbnails_are_seen_through_the_tokenizer_and_nothing_else_is(images):
    found = Seen([images], 50, [Means()], lambda images: images // 2, thumbnails=True)
    torch.testing.assert_close(found.thumbnails, thumbnails(images // 2))
    torch.testing.assert_close(found.statistics[0].mean, images.double().mean((0, 2, 3)))


def test_a_set_that_is_not_whole_is_no_set(images):
    with pytest.raises(AssertionError, match="50 images, announced were 51"):
        Seen([images], 51, [Means()])


class Outputs(InceptionNetwork):
    """Stands in for the Inception network."""

    def __init__(self):
        self.name, self.sha256, self.width, self.passes = "outputs", "0", 3, 0

    def outputs(self, images):
        self.passes += 1
        means = images.float().mean((2, 3))
        return InceptionOutputs(means, means[:, :2] * 2, means[:, :1] * 3)


def test_one_pass_keeps_features_spatial_statistics_and_logits(images):
    network = Outputs()
    found = Seen(images.split(7), 50, [Means(), network], features=True, spatial=True)
    assert network.passes == 8
    means = images.float().mean((2, 3))
    for features in found.features:
        assert torch.equal(features, means)
    torch.testing.assert_close(found.spatial.mean, 2 * means[:, :2].double().mean(0))
    assert found.spatial.count == 50
    assert torch.equal(found.logits, 3 * means[:, :1])
    assert torch.equal(found.spatial_features, 2 * means[:, :2])


def test_features_are_kept_only_where_they_are_asked_for(images):
    network = Outputs()
    found = Seen(images.split(7), 50, [Means(), network])
    assert [len(features) for features in found.features] == [0, 0]
    assert found.spatial.count == 0
    statistics_alone = Seen(images.split(7), 50, [network], spatial=True)
    assert statistics_alone.spatial_features is None
    assert statistics_alone.spatial.count == 50
    assert found.statistics[1].count == 50


def look_at_shapes(folder, chunk):
    """With everything that is asked for; of a rank only its share."""
    shapes = Shapes("train", 50, (32, 32))
    images = torch.stack([torch.from_numpy(np.array(shapes.image(row))) for row in range(50)])
    images, pieces = images.permute(0, 3, 1, 2), chunks(50, chunk)
    found = Seen(
        (images[rows.start : rows.stop] for rows in pieces),
        50,
        [Means(), Outputs()],
        pieces=pieces,
        part_of=in_draws(50, 15),
        objects=True,
        questions={"first": lambda rows, batch: [(row, int(batch[0, 0, 0, 0])) for row in rows]},
        thumbnails=True,
        features=True,
        spatial=True,
    )
    if is_main():
        sums = [*found.parts[0], *found.parts[1], found.spatial]
        moments = [(each.count, each.mean, each.covariance) for each in sums]
        rows = [*found.features, found.logits, found.thumbnails]
        objects = [[[each.row, each.column, each.size] for each in seen] for seen in found.objects]
        kept = {"moments": moments, "rows": rows, "objects": objects, "answers": found.answers}
        torch.save(kept, folder / f"{chunk}.pt")
    else:
        assert (found.statistics[0].count, len(found.logits), found.objects) == (0, 0, [])
        assert found.answers == {"first": []}


def test_two_ranks_have_seen_what_one_has(tmp_path):
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    calls = {
        name: [partial(look_at_shapes, tmp_path / name, chunk) for chunk in (7, 50)]
        for name in ("alone", "together")
    }
    for call in calls["alone"]:
        call()
    run_ranks(2, calls["together"])  # with chunks of 50 one of them sees nothing
    for chunk in (7, 50):
        one, two = (torch.load(tmp_path / name / f"{chunk}.pt") for name in calls)
        assert all(map(torch.equal, one["rows"], two["rows"]))
        assert one["objects"] == two["objects"]
        assert one["answers"] == two["answers"]
        assert [row for row, _ in one["answers"]["first"]] == list(range(50))
        assert sum(map(len, one["objects"])) > 40
        torch.testing.assert_close(one["moments"], two["moments"], rtol=1e-9, atol=1e-9)
        assert [count for count, *_ in two["moments"]] == [15, 15, 15, 5, 15, 15, 15, 5, 50]


def test_a_share_has_no_hash(images):
    found = Seen(images.split(25), 50, [Means()], pieces=[range(25), range(25, 50)])
    with pytest.raises(AssertionError, match="a share of a set is not hashed"):
        _ = found.sha256

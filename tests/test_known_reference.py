"""Samples scored against statistics of a reference: as against its images, or blank and said why."""

from Metrics.inception import NETWORK, OFFICIAL, InceptionNetwork, InceptionOutputs

SIZE, COUNT = (16, 16), 200  # more than the 128 features of our own network
BY_FEATURES = ("KID", "precision", "recall", "density", "coverage")


class Colours(InceptionNetwork):
    """Stands in for the released network."""

    def __init__(self):
        self.name, self.sha256 = NETWORK, OFFICIAL + "0" * 56
        self.width, self.is_official = 3, True

    def outputs(self, images):
        means = images.float().mean((2, 3))
        return InceptionOutputs(means, means.square() / 255**2, means / 100)

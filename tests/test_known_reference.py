"""Samples scored against statistics of a reference: as against its images, or blank and said why."""

import json

import numpy as np
import pytest
import torch

from MaskGIL.data.shapes import CLASSES
from Metrics import published, statistics_file
from Metrics.features import SHA256
from Metrics.inception import NETWORK, OFFICIAL, InceptionNetwork, InceptionOutputs
from Metrics.inception_metrics import frechet_distance
from Metrics.reference import open_image_set, open_reference
from Metrics.reference_statistics import StatisticsConfig, arrays_of, describe
from Metrics.sample_and_eval import evaluate
from Metrics.seen import Seen
from Metrics.features import load_feature_network
from Metrics.statistics_file import StatisticsFile, write_statistics
from Network.config import UserError

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

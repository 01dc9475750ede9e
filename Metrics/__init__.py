"""Floor 3: pictures in, numbers out."""

from Metrics.inception_metrics import FeatureStatistics, frechet_distance
from Metrics.inception_score import adm_inception_score, inception_score
from Metrics.kid import kernel_distance
from Metrics.neighbourhoods import density_coverage, precision_recall
from Metrics.sample_and_eval import evaluate

__all__ = [
    "FeatureStatistics",
    "adm_inception_score",
    "density_coverage",
    "evaluate",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "precision_recall",
]

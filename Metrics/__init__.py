"""Floor 3: pictures in, numbers out."""

from Metrics.inception_metrics import (
    FeatureStatistics,
    frechet_distance,
    inception_score,
    precision_recall,
)
from Metrics.sample_and_eval import evaluate

__all__ = [
    "FeatureStatistics",
    "evaluate",
    "frechet_distance",
    "inception_score",
    "precision_recall",
]

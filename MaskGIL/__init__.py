"""Floor 2: the method, and what both training and sampling need."""

from MaskGIL.config import load_config
from MaskGIL.decoding import decode
from MaskGIL.masking import SCHEDULES
from MaskGIL.pipeline import Pipeline
from MaskGIL.plans import ar_plan, hybrid_plan, mar_plan

__all__ = [
    "SCHEDULES",
    "Pipeline",
    "ar_plan",
    "decode",
    "hybrid_plan",
    "load_config",
    "mar_plan",
]

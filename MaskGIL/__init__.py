"""Floor 2: the method, and what both training and sampling need."""

from MaskGIL.config import load_config
from MaskGIL.decoding import ar_plan, decode, mar_plan
from MaskGIL.masking import SCHEDULES
from MaskGIL.pipeline import Pipeline

__all__ = ["SCHEDULES", "Pipeline", "ar_plan", "decode", "load_config", "mar_plan"]

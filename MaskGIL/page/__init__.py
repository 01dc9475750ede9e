"""The page of `python -m MaskGIL play`: what it asks for, how that is drawn, and its server."""

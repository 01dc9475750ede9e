"""Pictures in a folder, each a PNG of its own, where the scorers of their prompts look for them.

GenEval's evaluate_images.py (djghosh13/geneval, 16f1681) reads ID/samples/NUMBER.png, and what was
asked for from ID/metadata.jsonl. Of MJHQ-30K each category has a folder, with ID.png in it, so that
clean-fid, which looks into subfolders, compares one category or all, as its authors do.
"""

from collections.abc import Iterator, Sequence
from itertools import count, product
from pathlib import Path

from PIL import Image
from torch import Tensor

from MaskGIL.prompts import Prompt


class PictureFolder:
    """A new folder, filled with images in order: `each` of a prompt, or just numbered."""

    def __init__(self, folder: Path, prompts: Sequence[Prompt] = (), each: int = 1):
        self.folder, self._paths = folder, _paths(prompts, each)
        for prompt in prompts:
            if prompt.entry:
                (folder / prompt.id).mkdir(parents=True)
                (folder / prompt.id / "metadata.jsonl").write_text(prompt.entry + "\n", "utf-8")

    def add(self, images: Tensor) -> None:
        """Write the next images (B, 3, H, W) uint8."""
        for pixels in images.permute(0, 2, 3, 1).cpu().numpy():
            path = self.folder / next(self._paths)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def _paths(prompts: Sequence[Prompt], each: int) -> Iterator[Path]:
    if not prompts:
        yield from (Path(f"{number:05d}.png") for number in count())
    for prompt, number in product(prompts, range(each)):
        if prompt.entry:
            yield Path(prompt.id, "samples", f"{number:04d}.png")
        else:
            name = f"{prompt.id}-{number:02d}" if each > 1 else prompt.id
            yield Path(prompt.category, f"{name}.png")

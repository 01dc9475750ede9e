"""Which rows of the data set a step trains on: a pure function of (seed, step).

The stream of samples is endless and known in advance, so a run resumes in mid-epoch without any
history and the order depends on neither ranks nor workers. Stands on the hash of `noise.py`.
N rows with a label, C classes.
"""

import numpy as np
import torch

from MaskGIL.noise import random_bits
from Network.config import UserError


def spread(count: int, most: int) -> np.ndarray:
    """Up to `most` of `count` rows, evenly spread over them: (n,) int64."""
    return np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int64)


class Sampler:
    """Rows, crops and sample numbers of every step.

    `labels` (rows,) int64; a row labelled -1 is never drawn. An epoch is N draws. With `balance`
    0 each row comes once per epoch; with `balance` b in (0, 1] the frequency of a class follows
    its count ** (1 - b), 1 being equally often, and its rows take turns without replacement. The
    shares of the classes are whole numbers per epoch and exact in each. Raises UserError for
    labels without a drawable row and for a balance outside [0, 1].
    """

    def __init__(
        self, labels: np.ndarray, batch: int, seed: int, balance: float = 0.0, num_crops: int = 1
    ) -> None:
        assert batch > 0
        assert num_crops > 0
        self.batch, self.num_crops = batch, num_crops
        self._seed = torch.tensor(seed, dtype=torch.int64)
        self._num_labels = len(labels)
        self._rows = np.flatnonzero(labels >= 0)
        if len(self._rows) == 0:
            raise UserError("The data set has no readable image; see bad_files.txt.")
        if not 0 <= balance <= 1:
            raise UserError(f"data.balance={balance} lies outside 0 (as counted) to 1 (equal).")
        self._classes = _split_by_label(labels, self._rows) if balance else []
        self._shares = _shares([len(rows) for rows in self._classes], balance)
        self._epochs: dict[int, np.ndarray] = {}  # the two at hand; any other is computed again

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, crops and sample numbers (batch,) int64 of a step; numbers grow through the run."""
        samples = np.arange(step * self.batch, (step + 1) * self.batch)
        drawn = np.empty((2, self.batch), np.int64)  # rows, crops
        filled = 0
        while filled < self.batch:  # a batch may end an epoch, and a large one span several
            epoch, start = divmod(int(samples[filled]), len(self._rows))
            piece = self._epoch(epoch)[:, start : start + self.batch - filled]
            drawn[:, filled : filled + piece.shape[1]] = piece
            filled += piece.shape[1]
        return drawn[0], drawn[1], samples

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            self._epochs = dict([*self._epochs.items()][-1:]) | {epoch: self._draw_epoch(epoch)}
        return self._epochs[epoch]

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        """The N draws of an epoch in their order: (2, N) rows and crops."""
        rows, keys = self._rows, self._rows
        if self._classes:
            draws = zip(self._classes, self._shares)
            rows = np.concatenate([self._take(c, epoch * n, (epoch + 1) * n) for c, n in draws])
            keys = self._num_labels + np.arange(len(rows))  # behind the rows: no hash comes twice
        rows = rows[self._order(epoch, keys)]
        return np.stack([rows, self._crops(epoch * len(rows) + np.arange(len(rows)))])

    def _crops(self, samples: np.ndarray) -> np.ndarray:
        if self.num_crops == 1:
            return np.zeros_like(samples)
        bits = random_bits(self._seed, "crop", 0, torch.from_numpy(samples))
        return (bits % self.num_crops).numpy()  # 64 bits: the remainder is as good as even

    def _take(self, rows: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Draws `start` to `stop` of one class: its stream is permutation after permutation."""
        turns = np.arange(start // len(rows), (stop - 1) // len(rows) + 1)[:, None]
        stream = rows[self._order(turns, rows)].ravel()
        return stream[start - turns[0, 0] * len(rows) :][: stop - start]

    def _order(self, epoch: int | np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Order of the keys (..., K) in an epoch: by their hash, so that no generator is run."""
        bits = random_bits(self._seed, "order", torch.as_tensor(epoch), torch.from_numpy(keys))
        return bits.numpy().argsort(axis=-1, kind="stable")


def split_ranks(batch: int, world_size: int, accumulation: int) -> list[list[slice]]:
    """Parts of a global batch: `[rank][micro_step]` is its slice of the sampler's arrays.

    Raises UserError with the nearest batches that can be divided.
    """
    parts = world_size * accumulation
    size, rest = divmod(batch, parts)
    if rest or not size:
        near = [str(number) for number in (size * parts, (size + 1) * parts) if number]
        raise UserError(
            f"optim.batch={batch} is not divisible by {parts}, the number of ranks ({world_size}) "
            f"times loop.accumulation ({accumulation}); nearest: {', '.join(near)}."
        )
    starts = np.arange(0, batch, size).reshape(world_size, accumulation).tolist()
    return [[slice(start, start + size) for start in of_rank] for of_rank in starts]


def _split_by_label(labels: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """The rows of each class that has any."""
    rows = rows[labels[rows].argsort(kind="stable")]
    return np.split(rows, np.flatnonzero(np.diff(labels[rows])) + 1)


def _shares(counts: list[int], balance: float) -> list[int]:
    """Draws of each class per epoch, proportional to count ** (1 - balance), summing to N.

    Largest remainders get the last draws, and every class at least one.
    """
    if not counts:
        return []
    weights = np.array(counts, dtype=np.float64) ** (1 - balance)
    spare = sum(counts) - len(counts)  # one draw of each class is given away beforehand
    exact = np.maximum(sum(counts) * weights / weights.sum() - 1, 0)
    exact *= spare / max(exact.sum(), 1e-9)
    shares = np.floor(exact).astype(np.int64)
    last = np.argsort(shares - exact, kind="stable")[: spare - shares.sum()]
    shares[last] += 1
    return (shares + 1).tolist()

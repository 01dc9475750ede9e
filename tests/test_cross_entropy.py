"""Expected numbers: PyTorch's own cross-entropy and its gradients."""

import pytest
import torch
import torch.nn.functional as F

from MaskGIL.cross_entropy import cross_entropy
from Trainer.footprint import Peak

ROWS, CODES = 9, 7


def case(dtype=torch.double, scale=3.0):
    torch.manual_seed(0)
    logits = (scale * torch.randn(ROWS, CODES, dtype=dtype)).requires_grad_()
    return logits, torch.randint(CODES, (ROWS,)), torch.rand(ROWS, dtype=dtype)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    ("dtype", "scale", "error"),
    [(torch.double, 3.0, 1e-12), (torch.float32, 3.0, 1e-5), (torch.float32, 1e4, 1e-5)],
)
def test_losses_and_gradients_are_those_of_pytorch(smoothing, dtype, scale, error):
    """Each row's gradient has a factor of its own, as weights and fp16's scale make them."""
    logits, targets, weights = case(dtype, scale)
    expected = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    found = cross_entropy(logits, targets, smoothing)
    torch.testing.assert_close(found, expected, rtol=error, atol=error)
    for factor in (1.0, 2.0**16):
        ours, pytorch = (
            torch.autograd.grad((losses * weights).sum() * factor, logits, retain_graph=keep)[0]
            for losses, keep in (
                (cross_entropy(logits, targets, smoothing), False),
                (expected, True),
            )
        )
        torch.testing.assert_close(ours, pytorch, rtol=error, atol=factor * error)


def test_a_second_backward_pass_is_refused():
    """The first has written over what it needs."""
    logits, targets, _ = case()
    loss = cross_entropy(logits, targets, 0.1).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def peak(losses_of):
    """The most memory at once, in logits, beside these."""
    logits, targets = torch.randn(64, 4096, requires_grad=True), torch.randint(4096, (64,))
    with Peak() as found:
        torch.autograd.grad(losses_of(logits, targets).sum(), logits)
    return found.bytes / logits.nbytes


def test_its_gradient_takes_no_memory():
    def pytorch(logits, targets):
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1)

    assert peak(pytorch) > 2.9
    assert peak(lambda logits, targets: cross_entropy(logits, targets, 0.1)) < 1.1

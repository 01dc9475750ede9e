"""A network made ready for inference alone: its matrices cast once, its blocks compiled.

Its names in state dicts stay as they are.
"""

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from Network.config import UserError
from Network.files import fingerprint

_LOADED = "loaded_fingerprint"  # attribute of a network whose matrices are cast


def make_ready(network: nn.Module, dtype: torch.dtype, compile: bool) -> None:
    """For inference under autocast to `dtype`. Raises UserError if nothing can compile it."""
    if dtype in (torch.bfloat16, torch.float16):
        cast_matrices(network, dtype)
    if compile:
        check_compiler(next(network.parameters()).device)
        compile_blocks(network)


def cast_matrices(network: nn.Module, dtype: torch.dtype) -> None:
    """Keep the matrices of linear layers in `dtype`, as autocast would cast them at every call.

    Embeddings, norms and biases stay wide. The network then computes the same, in half the memory,
    but only under autocast to `dtype`.
    """
    setattr(network, _LOADED, loaded_fingerprint(network))
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)


def loaded_fingerprint(network: nn.Module) -> str:
    """The fingerprint of a network's weights as they were loaded, before they were cast."""
    return getattr(network, _LOADED, None) or fingerprint(network.state_dict())


def compile_blocks(network: nn.Module) -> None:
    """Compile each block by itself, when first used, for any batch, rows and tokens in a cache.

    All blocks share the same code. PyTorch compiles a size of 1 on its own.
    """
    for block in getattr(network, "blocks", ()):
        block.forward = _CompiledForward(block.forward)


def check_compiler(device: torch.device) -> None:
    """Raise UserError on a CPU without the compiler that PyTorch would call for it."""
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and not shutil.which(compiler):
        raise UserError(
            f"compile=true needs a C++ compiler, and there is no {compiler} here; install it, name "
            "another in the variable CXX, or use compile=false."
        )


class _CompiledForward:
    """Stands for the forward of a block; the condition, once per image, goes the plain way."""

    def __init__(self, plain: Callable[..., Any]):
        self.plain, self.compiled = plain, torch.compile(plain, dynamic=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        encodes = kwargs.keys() == {"mask"}  # as `GPT.encode` alone calls it
        return (self.plain if encodes else self.compiled)(*args, **kwargs)

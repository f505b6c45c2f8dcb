"""Fusing of convolutions with the batch normalization after them, in a frozen network.

In eval mode a batch normalization is a linear map of each channel, which a convolution can include.
"""

from collections import Counter
from copy import deepcopy
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torch.utils.weak import WeakTensorKeyDictionary

Network = TypeVar("Network", bound=nn.Module)

# Largest difference between the outputs, in standard deviations of the plain output. Rounding errors
# are about 1e-5.
TOLERANCE = 1e-3


@torch.no_grad()
def fuse_batch_norms(network: Network, example: Tensor) -> Network:
    """Return a copy of a frozen network in which convolutions include the normalization after them.

    A forward pass of `example` finds the module whose output each normalization receives. The network
    itself is returned if no normalization follows a convolution, or if the copy has another output, for
    example because the output of a convolution is used twice.
    """
    if not any(isinstance(each, nn.BatchNorm2d) for each in network.modules()):
        return network
    example = example.to(next(network.parameters()).device)
    pairs, plain = _find_pairs(network, example)
    if not pairs:
        return network
    fused = deepcopy(network)
    for conv_name, norm_name in pairs:
        conv, norm = fused.get_submodule(conv_name), fused.get_submodule(norm_name)
        rest = _rest_of(norm)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert rest is not None
        fused.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        fused.set_submodule(norm_name, rest)
    difference = (fused(example) - plain).abs().max()
    return fused if difference <= TOLERANCE * plain.std() else network


def _find_pairs(network: nn.Module, example: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Return the names of each convolution and the normalization after it, and the network's output.

    Modules that are called more than once are left out.
    """
    names = {module: name for name, module in network.named_modules()}
    convolved = WeakTensorKeyDictionary()  # outputs and the names of their convolutions
    pairs: list[tuple[str, str]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            convolved[output] = names[module]
        elif inputs[0] in convolved:
            pairs.append((convolved[inputs[0]], names[module]))

    hooked = (each for each in names if isinstance(each, nn.Conv2d) or _rest_of(each))
    hooks = [each.register_forward_hook(note) for each in hooked]
    try:
        features: Tensor = network(example)
    finally:
        for hook in hooks:
            hook.remove()
    uses = Counter(chain.from_iterable(pairs))
    return [pair for pair in pairs if all(uses[name] == 1 for name in pair)], features


def _rest_of(norm: nn.Module) -> nn.Module | None:
    """Return the rest of a normalization, such as its activation; None for what cannot be fused."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
        return None
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    from timm.layers.norm_act import BatchNormAct2d

    return nn.Sequential(norm.drop, norm.act) if type(norm) is BatchNormAct2d else None

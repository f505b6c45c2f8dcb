"""Fusing of convolutions with the batch normalization behind them, for a frozen network.

In eval mode both are linear maps of the channels, so one convolution does the work of both.
"""

import weakref
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)

# Largest difference between the outputs, in standard deviations of the plain output. Rounding gives
# about 1e-5.
TOLERANCE = 1e-3


@torch.no_grad()
def fuse_batch_norms(network: Network, example: Tensor) -> Network:
    """Return a copy of a frozen network without the batch normalizations that convolutions can do.

    A forward pass of `example` shows which module's output each normalization takes. The network
    itself is returned where no normalization follows a convolution, or where the copy has another
    output, for example because the output of a convolution is used twice.
    """
    if not any(isinstance(each, nn.BatchNorm2d) for each in network.modules()):
        return network
    pairs, plain = _find_pairs(network, example)
    if not pairs:
        return network
    fused = deepcopy(network)
    for conv_name, norm_name in pairs:
        conv, norm = fused.get_submodule(conv_name), fused.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        _replace(fused, conv_name, fuse_conv_bn_eval(conv, norm))
        _replace(fused, norm_name, _rest_of(norm))
    difference = (fused(example) - plain).abs().max()
    return fused if difference <= TOLERANCE * plain.std() else network


def _find_pairs(network: nn.Module, example: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Return the names of convolutions and the normalizations of their outputs; and the features."""
    names = {module: name for name, module in network.named_modules()}
    outputs: dict[int, tuple[weakref.ref[Tensor], nn.Module]] = {}  # by id, as long as they live
    pairs: list[tuple[nn.Module, nn.BatchNorm2d]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = weakref.ref(output), module
            return
        assert isinstance(module, nn.BatchNorm2d)
        reference, conv = outputs.get(id(inputs[0]), (None, module))
        if reference and reference() is inputs[0]:
            pairs.append((conv, module))

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [each.register_forward_hook(note) for each in names if isinstance(each, kinds)]
    try:
        features: Tensor = network(example)
    finally:
        for hook in hooks:
            hook.remove()
    used = [module for pair in pairs for module in pair]
    found = [
        (names[conv], names[norm])
        for conv, norm in pairs
        if used.count(conv) == used.count(norm) == 1 and _rest_of(norm) is not norm
    ]
    return found, features


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """Return what a normalization does besides; the module itself where this is not known."""
    if norm.running_mean is None:
        return norm
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    from timm.layers.norm_act import BatchNormAct2d

    if type(norm) is BatchNormAct2d:
        return nn.Sequential(norm.drop, norm.act)
    return norm


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)

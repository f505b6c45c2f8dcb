"""Fusing of convolutions with the batch normalization after them, in a frozen network.

In eval mode a batch normalization is a linear map of each channel, which a convolution can include.
"""

import weakref
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

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
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        _replace(fused, conv_name, fuse_conv_bn_eval(conv, norm))
        _replace(fused, norm_name, _rest_of(norm))
    difference = (fused(example) - plain).abs().max()
    return fused if difference <= TOLERANCE * plain.std() else network


def _find_pairs(network: nn.Module, example: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Return the names of each convolution and the normalization after it, and the network's output."""
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
    """Return the rest of a normalization, such as its activation; an unknown type returns itself."""
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

"""`train_codebook` and rvq's levels against the library that they replace in the step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from squeeze_cli.quantizers.codebooks import set_dead_code_threshold, train_codebook
from squeeze_cli.quantizers.residual_vq import ResidualVQWithProjection


def make_layer(codes: int = 12, dead: bool = False) -> VectorQuantize:
    torch.manual_seed(0)
    layer = VectorQuantize(
        dim=8, codebook_size=codes, decay=0.9, commitment_weight=0.25,
        threshold_ema_dead_code=1e-6,
    )  # fmt: skip
    with torch.no_grad():
        layer._codebook.embed.copy_(torch.randn(1, codes, 8))
        layer._codebook.cluster_size.fill_(0.0 if dead else 50.0)
        layer._codebook.embed_avg.copy_(layer._codebook.embed * 50)
    return layer.train()


def step(layer: VectorQuantize, ours: bool, vectors: Tensor) -> tuple[Tensor, ...]:
    x = vectors.clone().requires_grad_()
    torch.manual_seed(1)  # of what dead codes are replaced by
    if ours:
        quantized, codes, loss = train_codebook(layer, x)
    else:
        set_dead_code_threshold(layer, vectors.shape[0] * vectors.shape[1])
        quantized, codes, losses = layer(x)
        loss = losses.sum()
    torch.manual_seed(2)
    (quantized * torch.randn_like(quantized)).sum().backward(retain_graph=True)
    through_codes = x.grad
    x.grad = None
    loss.backward()
    buffers = layer._codebook
    return (quantized.detach(), codes, loss.detach(), through_codes, x.grad,
            buffers.embed, buffers.embed_avg, buffers.cluster_size)  # fmt: skip


@pytest.mark.parametrize("dead", [False, True], ids=["living", "dead"])
def test_a_step_is_the_librarys(dead: bool) -> None:
    library = make_layer(dead=dead)
    ours = copy.deepcopy(library)
    before = ours.codebook.clone()
    for seed in range(3):
        vectors = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(seed))
        results = zip(step(ours, True, vectors), step(library, False, vectors), strict=True)
        for mine, theirs in results:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.equal(before, ours.codebook)


def test_vectors_are_the_codebooks_to_the_last_bit() -> None:
    layer = make_layer()
    before = layer.codebook.clone()
    vectors, codes, _ = train_codebook(layer, torch.randn(2, 5, 8))
    assert torch.equal(vectors, before[codes])


def test_residual_levels_are_the_librarys() -> None:
    torch.manual_seed(0)
    library = ResidualVQWithProjection(
        16, num_quantizers=3, codebook_size=8, bottleneck_dim=4, initialize_codebook=False
    )
    tokens = torch.randn(2, 30, 16)
    library.initialize(tokens.flatten(0, 1), 60)
    for layer in library.rvq.layers:
        with torch.no_grad():
            layer._codebook.cluster_size.fill_(50.0)
            layer._codebook.embed_avg.copy_(layer._codebook.embed * 50)
        set_dead_code_threshold(layer, 60)
    ours = copy.deepcopy(library)
    weights = torch.randn(2, 30, 4)

    vectors, codes, losses = library.rvq(library.project_in(tokens))
    ((vectors * weights).sum() + losses.sum() * library.loss_weight).backward()
    mine, my_codes, my_loss = ours.quantize(tokens)
    ((mine * weights).sum() + my_loss).backward()

    assert torch.equal(codes, my_codes)
    torch.testing.assert_close(vectors, mine, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses.sum() * library.loss_weight, my_loss)
    torch.testing.assert_close(
        library.project_in.weight.grad, ours.project_in.weight.grad, rtol=1e-4, atol=1e-5
    )
    for theirs, own in zip(library.rvq.layers, ours.rvq.layers, strict=True):
        torch.testing.assert_close(theirs.codebook, own.codebook, rtol=1e-4, atol=1e-5)
    ours.eval()
    library.eval()
    assert torch.equal(ours.quantize(tokens)[1], library.rvq(library.project_in(tokens))[1])

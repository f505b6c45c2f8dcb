"""One contract over every registered quantizer."""

from __future__ import annotations

import copy
from math import log2

import pytest
import torch

from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.resolve import resolve_defaults
from squeeze_cli.config.schema import ExperimentConfig, QuantizerConfig
from squeeze_cli.model.network import FeatureNormalizer, SegmentationNetwork
from squeeze_cli.quantizers import Quantizer, TrainingStep, create_quantizer
from squeeze_cli.quantizers.vq import ResidualVQWithProjection

B, N, C, D = 3, 35, 24, 8
STEP = TrainingStep(vectors=B * N)
OPTIONS_OF_TRAINING = {"codes", "encoder_lr_factor", "rate_weight", "code_stride", "target_bits"}


def small(name: str, **changes: object) -> QuantizerConfig:
    config = QuantizerConfig(
        type=name,
        codec="SQ8",
        codebook_size=16,
        bottleneck_dim=D,
        levels=(5, 3, 4),
        num_quantizers=3,
        num_groups=4,
        step_size=0.3,
    )
    return resolve_defaults(ExperimentConfig(quantizer=config.model_copy(update=changes))).quantizer


@pytest.fixture(params=list(QUANTIZERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def quantizer(name: str) -> Quantizer:
    torch.manual_seed(0)
    quantizer = create_quantizer(small(name), C, STEP)
    quantizer.initialize(correlated_tokens(512))
    return quantizer


def correlated_tokens(count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, C, generator=generator)
    noise = 0.1 * torch.randn(count, C, generator=generator)
    return torch.randn(count, 6, generator=generator) @ mixing + noise + 0.5


def codes_of(quantizer: Quantizer, tokens: torch.Tensor) -> torch.Tensor:
    codes: torch.Tensor = quantizer.eval()(tokens)[1]
    return codes


def test_shapes_and_types(quantizer: Quantizer) -> None:
    vectors, codes, loss, _ = quantizer(correlated_tokens(B * N).view(B, N, C))
    assert quantizer.output_map()(vectors).shape == (B, N, C)
    assert codes.shape == (B, N, len(quantizer.code_sizes))
    assert codes.dtype == torch.int64
    assert loss.shape == ()
    for level, size in enumerate(quantizer.code_sizes):
        assert codes[..., level].min() >= 0
        assert codes[..., level].max() < size


def test_decoding_gives_the_same_features_to_the_last_bit(quantizer: Quantizer) -> None:
    tokens = correlated_tokens(B * N).view(B, N, C)
    vectors, codes, _, _ = quantizer.eval()(tokens)
    features = quantizer.output_map()(vectors)
    if quantizer.code_sizes:
        assert torch.equal(quantizer.lookup(codes), vectors)
        assert torch.equal(quantizer.output_map()(quantizer.lookup(codes)), features)
    else:
        assert torch.equal(vectors, tokens)
        assert torch.equal(features, tokens)


def test_eval_mode_changes_nothing_and_has_no_loss(quantizer: Quantizer) -> None:
    quantizer.eval()
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    tokens = correlated_tokens(B * N).view(B, N, C)
    _, first, loss, _ = quantizer(tokens)
    assert loss == 0
    assert torch.equal(first, codes_of(quantizer, tokens))
    after = quantizer.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_codes_of_a_vector_do_not_depend_on_its_batch(quantizer: Quantizer) -> None:
    tokens = correlated_tokens(B * N).view(B, N, C)
    alone = torch.cat([codes_of(quantizer, tokens[i : i + 1]) for i in range(B)])
    assert (alone != codes_of(quantizer, tokens)).sum() == 0


def test_nominal_bits(quantizer: Quantizer, name: str) -> None:
    coded = sum(log2(size) for size in quantizer.code_sizes)
    expected = coded if quantizer.code_sizes else 32 * C
    assert quantizer.nominal_bits_per_vector == pytest.approx(expected)
    sizes = {"vq": (16,), "fsq": (60,), "lfq": (16,), "rvq": (16,) * 3, "pq": (16,) * 4, "none": ()}
    assert quantizer.code_sizes == {**sizes, "faiss": (256,) * C, "dct": (255,) * D}[name]


def test_gradients_reach_the_input_and_every_projection(quantizer: Quantizer) -> None:
    quantizer.train()
    tokens = correlated_tokens(B * N).view(B, N, C).requires_grad_()
    vectors, _, loss, _ = quantizer(tokens)
    (quantizer.output_map()(vectors).square().mean() + loss).backward()
    assert tokens.grad is not None
    assert tokens.grad.abs().sum() > 0
    for parameter_name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


def test_features_are_the_output_map_of_the_code_vectors(quantizer: Quantizer) -> None:
    if not quantizer.counted_sizes:
        pytest.skip("no codes, or codes without vectors of their own")
    codes = codes_of(quantizer, correlated_tokens(B * N).view(B, N, C))
    books = quantizer.code_vectors()
    assert [len(book) for book in books] == list(quantizer.code_sizes)
    total = sum(book[codes[..., level]] for level, book in enumerate(books))
    torch.testing.assert_close(
        quantizer.output_map()(total),
        quantizer.output_map()(quantizer.lookup(codes)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_initialization_reconstructs_better_than_the_mean_and_uses_the_codes(
    quantizer: Quantizer, name: str
) -> None:
    tokens = correlated_tokens(2048)
    vectors, codes, _, _ = quantizer.eval()(tokens[None])
    features = quantizer.output_map()(vectors)[0]
    error = (features - tokens).square().mean() / tokens.var(dim=0).mean()
    assert error < 0.7
    if name == "dct":  # its codes are for any step size, and the last axes are noise
        assert len(codes[..., 0].unique()) > 10
        return
    least = 0.5 if quantizer.codec_bytes else 0.9  # those of FAISS are as far apart as extremes ask
    for level, size in enumerate(quantizer.code_sizes):
        assert len(codes[..., level].unique()) > least * size


def test_state_dict_restores_the_same_codes(quantizer: Quantizer, name: str) -> None:
    loaded = create_quantizer(small(name), C, STEP)
    loaded.load_state_dict(quantizer.state_dict())
    tokens = correlated_tokens(B * N).view(B, N, C)
    assert torch.equal(codes_of(loaded, tokens), codes_of(quantizer, tokens))


def test_every_declared_option_changes_something(name: str) -> None:
    """An option that a quantizer claims to take and ignores is a lie in `--help`.

    Options of training, and of what stands around a quantizer, do not: test_optimizers.py,
    test_rate.py, test_target_bits.py, test_blocks.py, and `codes` in config/test_config.py.
    """
    changes = {
        "codebook_size": 32, "bottleneck_dim": 4, "num_quantizers": 2, "num_groups": 2, "levels": (3, 3),
        "decay": 0.5, "commitment_weight": 3.0, "entropy_loss_weight": 5.0,
        "diversity_gamma": 4.0, "spherical": True, "vq_loss_weight": 7.0,
        "initialize_codebook": False, "quantizer_dropout": True, "codec": "SQ4", "step_size": 0.5,
    }  # fmt: skip

    def fingerprint(**change: object) -> list[float]:
        torch.manual_seed(3)
        quantizer = create_quantizer(small(name, **change), C, STEP)
        quantizer.initialize(correlated_tokens(512))
        tokens = correlated_tokens(B * N).view(B, N, C)
        losses = [quantizer(tokens * (1 + 0.3 * step))[2].item() for step in range(3)]
        vectors = quantizer.eval()(tokens)[0]
        return [*losses, quantizer.output_map()(vectors).sum().item()]

    plain = fingerprint()
    for option in QUANTIZERS[name].options - OPTIONS_OF_TRAINING:
        assert fingerprint(**{option: changes[option]}) != plain, option


def test_an_encoder_has_parameters_where_its_rate_can_be_set(
    quantizer: Quantizer, name: str
) -> None:
    network = SegmentationNetwork(FeatureNormalizer(C), quantizer, None)
    encoder = {id(parameter) for parameter in network.encoder_parameters()}
    assert encoder <= {id(parameter) for parameter in quantizer.parameters()}
    assert bool(encoder) == ("encoder_lr_factor" in QUANTIZERS[name].options)


@pytest.mark.parametrize("kind", ["vq", "rvq", "pq"])
def test_dead_codes_come_back_to_life(kind: str) -> None:
    """Vectors move away from most codes, which the library then replaces by vectors in use."""
    torch.manual_seed(0)
    quantizer = create_quantizer(small(kind, decay=0.8), C, STEP)
    narrow = correlated_tokens(1)  # all codes start around one vector
    quantizer.initialize(correlated_tokens(512))
    quantizer.train()
    for step in range(10):
        quantizer((narrow + 0.01 * correlated_tokens(B * N, seed=step)).view(B, N, C))
    batches = [correlated_tokens(B * N, seed=step).view(B, N, C) for step in range(60)]
    for batch in batches:
        quantizer(batch)
    codes = codes_of(quantizer, torch.cat(batches))
    for level in range(codes.shape[-1]):
        assert len(codes[..., level].unique()) > 12


@pytest.mark.parametrize("kind", ["vq", "rvq", "pq"])
def test_codebooks_start_from_the_librarys_kmeans(kind: str) -> None:
    """After `initialize`, no batch starts k-means again: not in eval mode, not when loaded."""
    torch.manual_seed(0)
    quantizer = create_quantizer(small(kind), C, STEP)
    quantizer.initialize(correlated_tokens(512))
    started = [book.clone() for book in quantizer.code_vectors()]
    assert all(len(book.unique(dim=0)) == len(book) for book in started)
    loaded = create_quantizer(small(kind), C, STEP)
    loaded.load_state_dict(quantizer.state_dict())
    loaded.eval()(correlated_tokens(B * N, seed=9).view(B, N, C))
    for before, after in zip(started, loaded.code_vectors(), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("kind", ["vq", "rvq", "pq"])
def test_a_training_step_is_the_librarys(kind: str) -> None:
    quantizer = create_quantizer(small(kind), C, STEP)
    quantizer.initialize(correlated_tokens(512))
    library = copy.deepcopy(quantizer)
    tokens = correlated_tokens(B * N, seed=5).view(B, N, C)
    vectors, codes, loss, _ = quantizer.train()(tokens)
    module = getattr(library.train(), kind)
    expected, indices, losses = module(library.project_in(tokens))
    assert torch.equal(vectors, expected)
    if kind == "pq":  # the library has the groups in front
        indices, losses = indices[..., 0].movedim(0, -1), losses.mean()
    assert torch.equal(codes.view_as(indices), indices)
    torch.testing.assert_close(loss, losses.sum() * quantizer.config.vq_loss_weight)
    for ours, theirs in zip(quantizer.buffers(), library.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_codebook_is_counted_once() -> None:
    """What a decoder must be given: all values of the library's codebooks, and of implicit ones none."""
    for kind, values in {
        "vq": 16 * D,
        "rvq": 3 * 16 * D,
        "pq": 16 * D,
        "fsq": 0,
        "none": 0,
    }.items():
        assert create_quantizer(small(kind), C, STEP).codebook_values == values, kind


def test_each_part_of_a_product_quantizer_has_its_own_code() -> None:
    torch.manual_seed(0)
    quantizer = create_quantizer(small("pq"), C, STEP)
    tokens = correlated_tokens(2048)
    quantizer.initialize(tokens)
    codes = codes_of(quantizer, tokens[None])
    other = codes.clone()
    other[..., 1] = (codes[..., 1] + 1) % 16
    changed = (quantizer.lookup(other) != quantizer.lookup(codes)).flatten(0, 1).any(dim=0)
    assert changed.tolist() == [False] * 2 + [True] * 2 + [False] * 4


def test_quantizer_dropout_leaves_out_last_levels_in_training_alone() -> None:
    torch.manual_seed(0)
    quantizer = create_quantizer(small("rvq", quantizer_dropout=True), C, STEP)
    quantizer.initialize(correlated_tokens(512))  # it leaves out none
    assert all(len(book.unique(dim=0)) == len(book) for book in quantizer.code_vectors())
    tokens = correlated_tokens(B * N).view(B, N, C)
    kept = set()
    for _ in range(20):
        codes = quantizer.train()(tokens)[1]
        there = (codes >= 0).flatten(0, 1)
        assert (there == there[0]).all()
        kept.add(tuple(there[0].tolist()))
    assert kept == {(True, False, False), (True, True, False), (True, True, True)}
    assert (codes_of(quantizer, tokens) >= 0).all()


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_first_levels_serve_alone(levels: int) -> None:
    torch.manual_seed(0)
    quantizer = create_quantizer(small("rvq"), C, STEP)
    assert isinstance(quantizer, ResidualVQWithProjection)
    quantizer.initialize(correlated_tokens(512))
    tokens = correlated_tokens(B * N).view(B, N, C)
    codes, books = codes_of(quantizer, tokens), quantizer.code_vectors()
    quantizer.keep_levels(levels)
    vectors, first, _, _ = quantizer(tokens)
    assert torch.equal(first, codes[..., :levels])
    assert torch.equal(vectors, quantizer.lookup(first))
    total = sum(books[level][first[..., level]] for level in range(levels))
    torch.testing.assert_close(vectors, total)
    assert quantizer.nominal_bits_per_vector == 4 * levels
    assert quantizer.codebook_values == levels * 16 * D

from __future__ import annotations

import torch
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans as library_kmeans

from squeeze_cli.quantizers.codebooks import KMEANS_ITERATIONS, kmeans, nearest_codes


def clustered(n: int, d: int = 6) -> torch.Tensor:
    torch.manual_seed(1)
    centres = 3 * torch.randn(7, d)
    return centres[torch.randint(0, 7, (n,))] + torch.randn(n, d)


def test_kmeans_gives_what_the_library_gives() -> None:
    vectors = clustered(3000)
    torch.manual_seed(5)
    means, counts = kmeans(vectors, 20)
    torch.manual_seed(5)
    expected, expected_counts = library_kmeans(vectors[None], 20, KMEANS_ITERATIONS)
    torch.testing.assert_close(means, expected[0])
    assert counts.tolist() == expected_counts[0].tolist()


def test_kmeans_of_fewer_vectors_than_codes() -> None:
    vectors = clustered(5)
    means, counts = kmeans(vectors, 8)
    assert means.isfinite().all()
    assert counts.sum() == 5


def test_nearest_codes_are_those_of_the_distances() -> None:
    vectors, codebook = clustered(5000), clustered(33)
    expected = torch.cdist(vectors.double(), codebook.double()).argmin(dim=1)
    assert torch.equal(nearest_codes(vectors, codebook), expected)

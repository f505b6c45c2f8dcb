"""Codecs of FAISS (Douze et al., 2024, arXiv:2401.08281), references for learned codes."""

import re

import torch
from torch import Tensor

from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.errors import SqueezeError, UsageError, one_line
from squeeze_cli.kernels.folding import AffineMap
from squeeze_cli.quantizers.base import Quantizer, TrainingStep

MOST_BYTES = 1024  # per vector, for the header of a codes file
# Other strings name search indexes, or sizes for which FAISS allocates too much memory at once.
CODEC = (
    r"((PCAW?R?|OPQ|RR)\d{0,4}(_\d{1,4})?,){0,3}"
    r"(SQ|PQ|RQ|LSQ|PRQ|PLSQ)(\d{1,4}|fp16|bf16)(x\d{1,2}(?=x))?(x(\d|1[0-6]))?"
)


class FaissCodec(Quantizer):
    """A codec that FAISS trains on pooled features before the first step, and that stays fixed then.

    The codes are the bytes of `sa_encode`; the code vectors are the features that `sa_decode` returns.
    The state of the module holds the codec as serialized by FAISS.

    Raises UsageError if FAISS is missing or has no such codec, and for several processes, because each
    would train another codec.
    """

    stand_for_vectors = False
    identity: Tensor

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: TrainingStep) -> None:
        super().__init__(config, feature_dim, step)
        self.name = f"--codec {config.codec}"
        self.register_buffer("identity", torch.eye(feature_dim), persistent=False)
        if step.processes > 1:
            raise UsageError("--quantizer faiss is trained on one device: leave --devices out.")
        if not re.fullmatch(CODEC, config.codec):
            raise UsageError(
                f"{self.name[:80]} is not a codec: use one such as PCA64,SQ8 or OPQ8_64,PQ8x8."
            )
        try:
            import faiss

            self.faiss = faiss
            self.index = faiss.index_factory(feature_dim, config.codec)
            size = self.index.sa_code_size()
        except ModuleNotFoundError:
            raise UsageError("FAISS is missing: `pip install squeeze-cli[faiss]`.") from None
        except (RuntimeError, MemoryError) as error:
            raise UsageError(
                f"{self.name} is not a codec for {feature_dim} channels ({_reason(error)}): use one such "
                "as PCA64,SQ8."
            ) from None
        if size > MOST_BYTES:
            raise UsageError(
                f"{self.name} makes {size} bytes per vector, more than {MOST_BYTES}: begin with PCA64."
            )
        self.code_sizes = (256,) * size

    @property
    def codec_bytes(self) -> int:
        """Size of the trained codec, as serialized by FAISS."""
        return self.get_extra_state().numel()

    def get_extra_state(self) -> Tensor:
        """Return the bytes of the codec, uint8."""
        return torch.from_numpy(self.faiss.serialize_index(self.index))

    def set_extra_state(self, state: Tensor) -> None:
        """Load the codec from its bytes; raises SqueezeError for those of another codec."""
        index = self.faiss.deserialize_index(state.cpu().numpy())
        if (index.d, index.sa_code_size()) != (self.feature_dim, len(self.code_sizes)):
            raise SqueezeError(f"the codec is not {self.name}")
        self.index = index

    def initialize(self, tokens_nc: Tensor) -> None:
        """Train the codec; raises SqueezeError if it needs more vectors or channels, or cannot decode."""
        vectors = tokens_nc.float().cpu().contiguous().numpy()
        try:
            self.index.train(vectors)
            self.index.sa_decode(self.index.sa_encode(vectors[:1]))
        except RuntimeError as error:
            raise SqueezeError(
                f"{self.name} cannot be used ({_reason(error)}): use a smaller one, or more images."
            ) from None

    def run_library(self, inputs_bnd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode and decode by FAISS, without a loss; gradients pass to the inputs unchanged."""
        vectors = inputs_bnd.detach().flatten(0, 1).float().cpu().contiguous().numpy()
        encoded = torch.from_numpy(self.index.sa_encode(vectors)).to(inputs_bnd.device)
        codes = encoded.long().view(*inputs_bnd.shape[:2], -1)
        decoded = inputs_bnd + (self.lookup(codes) - inputs_bnd).detach()
        return decoded, codes, inputs_bnd.new_zeros(())

    def lookup(self, codes_bnq: Tensor) -> Tensor:
        """Return the features `[B, N, C]` that FAISS decodes."""
        encoded = codes_bnq.flatten(0, 1).to("cpu", torch.uint8).contiguous().numpy()
        decoded = torch.from_numpy(self.index.sa_decode(encoded))
        return decoded.view(*codes_bnq.shape[:2], -1).to(self.identity.device)

    def output_map(self) -> AffineMap:
        """Return the identity `[C, C]`."""
        return AffineMap(self.identity, torch.zeros_like(self.identity[0]))


def _reason(error: BaseException) -> str:
    """Return FAISS's message without the function and source line at its beginning."""
    return one_line(str(error).rpartition(": ")[2] or error)

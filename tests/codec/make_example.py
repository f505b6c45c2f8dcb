"""The files in tests/codec/data: a prior, codes, and the codes file that they make.

    python -m tests.codec.make_example

They stay as they are: a later build must read what an earlier one wrote. Only a new version of the
format brings new files, beside these: codes.safetensors is of version 1.
"""

from __future__ import annotations

import json
from pathlib import Path

from squeeze_cli.codec.container import encode_codes
from squeeze_cli.codec.prior_files import write_prior
from tests.codec.priors import fitted_prior, smooth_codes

DATA = Path(__file__).parent / "data"
SIZES, GRID, IMAGES = (37,), (3, 5), 7


def main() -> None:
    """Fit, encode, write."""
    prior = fitted_prior(SIZES, GRID, images=200)
    codes = smooth_codes(IMAGES, GRID, SIZES, seed=1)
    names = [f"cat_{number}" for number in range(IMAGES)]
    content = encode_codes(
        codes, names, quantizer="vq", code_sizes=SIZES, run="0123456789abcdef", prior=prior
    )
    write_prior(DATA / "prior.safetensors", prior)
    (DATA / "codes.sqz").write_bytes(content)
    (DATA / "codes.json").write_text(json.dumps(codes[..., 0].tolist()) + "\n")


if __name__ == "__main__":
    main()

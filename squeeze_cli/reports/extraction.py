"""The closing table of `squeeze extract-embeddings`."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from squeeze_cli.reports.tables import facts, number


def extraction_table(result: dict[str, Any]) -> Table:
    """What was written, what it costs, and what it lost; within 80 columns."""
    table = facts(f"{result['content']} of {result['source']}")
    table.add_row("Vectors", f"{result['vectors']:,} in {result['images']:,} images")
    if result["content"] == "codes":
        table.add_row("Nominal", f"{number(result['nominal_bits_per_vector'])} bits a vector")
        table.add_row(
            "Measured", f"{number(result['bits_per_vector'])} bits a vector (coding "
            f"{result['coding']}; all bytes of the files)"
        )  # fmt: skip
    table.add_row(
        "Size", f"{result['file_bytes']:,} bytes, {number(result['bytes_per_image'])} an image"
    )
    if result["content"] == "codes":
        table.add_row("Ratio", _ratios(result, ""))
        table.add_row(
            "With decoder", f"{_ratios(result, '_with_decoder')}, "
            f"{result['decoder_bytes']:,} bytes once: codebook, projection"
            + (", prior" if result["coding"] == "prior" else "")
        )  # fmt: skip
    if "mse" in result:
        table.add_row(
            "Distortion",
            f"MSE {result['mse']:.3f}, cosine {result['cosine']:.3f} (normalized features)",
        )
    table.add_row("Folder", result["out"])
    return table


def _ratios(result: dict[str, Any], suffix: str) -> str:
    return " and ".join(
        f"1/{number(result[f'compression_ratio_{kind}{suffix}'])} of {kind}"
        for kind in ("float32", "float16")
    )

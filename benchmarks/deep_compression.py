"""Deep Compression's own network in the sparse form: how small, and whether it decides as before.

SqueezeNet 1.0 with its authors' pruned ImageNet weights is written as a sparse file, exactly and with shared values;
each file is read into a fresh network, and both look at the same photographs. Inference only, minutes on one core.

Run: .venv/bin/python benchmarks/deep_compression.py WEIGHTS.safetensors PHOTOGRAPHS...
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, normalize, resize

from leandet import nets
from leandet.atomic import write_json
from leandet.data.image import load_image
from leandet.machine import describe_machine
from leandet.runtime.sources import find_images
from leandet.sparsify import load_sparse, save_sparse, share
from leandet.sparsify.masking import share_of_zeros

NAME, SIDE, BATCH = "squeezenet1_0", 227, 16
BITS = (None, 8, 6, 5, 4)  # None: exact
PUBLISHED_BYTES = 0.47e6  # arXiv 1602.07360, table 2: 6 bit, with Huffman coding
GOAL_BYTES, GOAL_SAME = 0.7e6, 0.98


def views(paths: list[Path]) -> list[Tensor]:
    """Photographs as the network was trained to see them: batches (B, 3, 227, 227)."""
    pictures = []
    for path in paths:
        picture = torch.from_numpy(np.ascontiguousarray(load_image(path).transpose(2, 0, 1))).float() / 255
        picture = center_crop(resize(picture, [256], antialias=True), [SIDE, SIDE])
        pictures.append(normalize(picture, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return list(torch.stack(pictures).split(BATCH))


@torch.inference_mode()
def answers(network: nn.Module, batches: list[Tensor]) -> Tensor:
    """Logits (N, 1000)."""
    network.eval()
    return torch.cat([network(batch) for batch in batches])


def row(network: nn.Module, bits: int | None, batches: list[Tensor], wanted: Tensor) -> dict[str, object]:
    """One way to write the network: bytes, seconds, and how its answers differ from `wanted`."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.safetensors"
        start = time.perf_counter()
        save_sparse(network if bits is None else share(network, bits), path)
        wrote = time.perf_counter()
        read = load_sparse(nets.create(NAME), path)
        end = time.perf_counter()
        size = path.stat().st_size
    found = answers(read, batches)
    state = network.state_dict()
    return {
        "shared_bits": bits,
        "bytes": size,
        "times_smaller": round(sum(4 * tensor.numel() for tensor in state.values()) / size, 2),
        "same_bits": all(torch.equal(state[name], tensor) for name, tensor in read.state_dict().items()),
        "same_top1": float((found.argmax(1) == wanted.argmax(1)).double().mean()),
        "largest_logit_difference": float((found - wanted).abs().max()),
        "write_s": round(wrote - start, 2),
        "read_s": round(end - wrote, 2),
    }


def main() -> None:
    """Measure every way and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("photographs", nargs="+")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "deep_compression.json")
    arguments = parser.parse_args()
    network = nets.create(NAME)
    network.load_state_dict(load_file(arguments.weights))
    batches = views(find_images(arguments.photographs))
    wanted = answers(network, batches)
    rows = []
    for bits in BITS:
        rows.append(row(network, bits, batches, wanted))
        print(rows[-1], flush=True)
    best = rows[0]
    write_json(
        arguments.out,
        {
            "command": "benchmarks/deep_compression.py squeezenet1_0_deepcompressed.safetensors bccd cards",
            "network": NAME,
            "zeros": share_of_zeros(dict(network.named_parameters())),
            "photographs": sum(len(batch) for batch in batches),
            "distinct_decisions": len(wanted.argmax(1).unique()),
            "published_bytes": PUBLISHED_BYTES,
            "met": best["bytes"] < GOAL_BYTES and best["same_top1"] >= GOAL_SAME,
            "rows": rows,
            "machine": describe_machine(),
        },
    )


if __name__ == "__main__":
    main()

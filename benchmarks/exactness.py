"""Is every cut exact? Two sweeps, resumable: what is in the result file already is not done again.

verify: for every seed backbone, every detector of ours, torchvision's classifiers, a chunk block and a shared head,
half of each channel group is masked and cut, and the outputs compared in float64. With --torch-pruning FOLDER the same
is asked of Torch-Pruning for each convolution (`pip install --no-deps --target FOLDER torch-pruning`).

rebuild: every seed backbone as a detector, pruned to 70 % and 50 % of its multiply-adds by every criterion, saved, and
loaded in a fresh process: do the outputs agree?

    python benchmarks/exactness.py verify --torch-pruning /tmp/tp
    python benchmarks/exactness.py rebuild
    python benchmarks/exactness.py table        # into docs/pruning.md
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from record import DOCS, fill, load, save, table
from safetensors.torch import save_file
from torch import Tensor, nn

from leandet import nets
from leandet.card import Card
from leandet.compress import Quantity, Scope, Target, recalibrate, shrink, verify
from leandet.compress.channels import analyse
from leandet.data.read import read
from leandet.data.shapes import CLASSES, draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.files import save_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.nets.blocks import conv_bn
from leandet.pipeline.scoring import CRITERIA, Pictures
from leandet.preprocess import Size

SIDE = 64
SHARES = (0.7, 0.5)
TORCHVISION = ("resnet18", "resnet50", "densenet121", "efficientnet_b0", "regnet_y_400mf", "googlenet", "mnasnet1_0")
FRESH = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file
from leandet import load
torch.set_num_threads(1)
folder = Path(sys.argv[1])
known = load_file(folder / "known.safetensors")
with torch.no_grad():
    for path in sorted(folder.glob("cut-*.safetensors")):
        found = load(path).every_location(known["images"])  # as they are: in use, roundings are multiplied
        errors = []
        for part in ("logits", "boxes"):
            wanted = known[f"{path.stem}.{part}"]
            errors.append(float((getattr(found, part) - wanted).abs().max() / wanted.abs().max()))
        print(path.stem, max(errors))
"""


class Chunk(nn.Module):
    """A C2f block: halves, one of which goes through bottlenecks, all put together."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter = conv_bn(3, 2 * width, activation=nn.SiLU)
        self.blocks = nn.ModuleList(conv_bn(width, width, 3, activation=nn.SiLU) for _ in range(2))
        self.leave = conv_bn(4 * width, 12, activation=nn.SiLU)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 5, H, W)."""
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.head(self.leave(torch.cat(parts, 1)))


class SharedHead(nn.Module):
    """One head for two levels, whose outputs are put in one list."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = conv_bn(3, 16, 3, stride=2), conv_bn(16, 16, 3, stride=2)
        self.head = nn.Sequential(conv_bn(16, 24, 3, activation=nn.ReLU), nn.Conv2d(24, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 5, locations)."""
        fine = self.fine(x)
        return torch.cat([self.head(level).flatten(2) for level in (fine, self.coarse(fine))], 2)


def detector(name: str) -> Detector:
    """A detector of ours with random weights."""
    return Detector(Spec(name, len(CLASSES), Size(SIDE, SIDE), width=32))


def classifier(name: str) -> nn.Module:
    """One of torchvision's, with random weights."""
    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    network: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=10, **more)
    return network


def subjects() -> dict[str, Callable[[], nn.Module]]:
    """Every network of the sweep, by name."""
    return {
        "chunk block": Chunk,
        "shared head": SharedHead,
        **{f"torchvision {name}": partial(classifier, name) for name in TORCHVISION},
        **{f"backbone {name}": partial(nets.create, name, num_classes=10) for name in nets.TABLE},
        **{f"detector {name}": partial(detector, name) for name in nets.TABLE},
    }


def lively(network: nn.Module, images: Tensor) -> nn.Module:
    """Batch-norms with random scales and measured statistics: on dead channels a proof says nothing."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
    return recalibrate(network, [images])


def pictures(*, pixels: bool) -> Tensor:
    """Four random images, in 0..255 for detectors, else normalised."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 3, SIDE, SIDE, generator=generator)
    return (noise * 50 + 120).clamp(0, 255) if pixels else noise


def proof(make: Callable[[], nn.Module]) -> dict[str, Any]:
    """Our own verify: its four figures, and how long the group analysis took."""
    torch.manual_seed(0)
    network = make()
    images = pictures(pixels=isinstance(network, Detector))
    network = lively(network, images)
    start = time.perf_counter()
    analyse(network, images[:1])
    seconds = time.perf_counter() - start
    report = verify(network, images[:1])
    found = {name: value for name, value in report.to_json().items() if name != "checks"}
    least = min((check.change for check in report.checks), default=0.0)
    return {**found, "least_change": least, "analysis_seconds": round(seconds, 3)}


def oracle(make: Callable[[], nn.Module]) -> dict[str, Any]:
    """The same question to Torch-Pruning: for each convolution, are half of its outputs cut as they are masked?"""
    tp = importlib.import_module("torch_pruning")
    torch.manual_seed(0)
    network = make()
    images = pictures(pixels=isinstance(network, Detector))
    network = lively(network, images).double().eval()
    images = images[:1].double()
    names = [n for n, part in network.named_modules() if isinstance(part, nn.Conv2d)]
    counts = {"layers": len(names), "exact": 0, "wrong": 0, "crashed": 0}
    for name in names:
        try:
            counts["exact" if _oracle_error(tp, network, images, name) < 1e-6 else "wrong"] += 1
        except Exception as error:  # noqa: BLE001 (whatever it raises, it crashed)
            counts["crashed"] += 1
            counts.setdefault("first_error", f"{name}: {type(error).__name__}: {str(error)[:120]}")
    return counts


def _oracle_error(tp: Any, network: nn.Module, images: Tensor, name: str) -> float:
    """Relative difference of the masked and the cut network's outputs; 0 where the layer may not be cut."""
    cut, masked = copy.deepcopy(network), copy.deepcopy(network)
    layer = cut.get_submodule(name)
    graph = tp.DependencyGraph().build_dependency(cut, images, output_transform=_first)
    prune = (
        tp.prune_depthwise_conv_out_channels if layer.groups == layer.out_channels > 1 else tp.prune_conv_out_channels
    )
    group = graph.get_pruning_group(layer, prune, idxs=list(range(0, layer.out_channels, 2)))
    if not graph.check_pruning_group(group):
        return 0.0
    places = {module: path for path, module in cut.named_modules()}
    reads = False
    with torch.no_grad():
        for dependency, index in group:
            if not graph.is_in_channel_pruning_fn(dependency.handler) or dependency.target.module not in places:
                continue
            reads |= _silence(masked.get_submodule(places[dependency.target.module]), [int(i) for i in index])
        if not reads:
            return 0.0  # the network's own outputs
        group.prune()
        wanted, found = _first(masked(images)), _first(cut(images))
    return float((wanted - found).abs().max() / wanted.abs().max())


def _silence(reader: nn.Module, channels: Sequence[int]) -> bool:
    """Give a layer's inputs of these channels weight zero; false where it makes no new channels out of them."""
    if not isinstance(reader, nn.Conv2d | nn.Linear):
        return False
    groups = reader.groups if isinstance(reader, nn.Conv2d) else 1
    width, rows = reader.weight.shape[1], reader.weight.shape[0] // groups
    if groups > 1 and width == 1:
        return False  # depthwise: its own readers are in the list
    for channel in channels:
        group = channel // width
        reader.weight[group * rows : (group + 1) * rows, channel % width] = 0
    return True


def _first(outputs: Any) -> Tensor:
    tensor: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
    return tensor


def rebuilt(name: str, criteria: Sequence[str], shares: Sequence[float]) -> Iterator[dict[str, Any]]:
    """A backbone's detectors, pruned by each criterion to each share and built again in a fresh process."""
    torch.manual_seed(0)
    images = pictures(pixels=True)
    network = lively(detector(name), images)
    example = images[:1]
    rows, known = [], {"images": images}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        samples = read(draw_shapes(folder / "shapes", train=8, val=1, side=96))[0].splits["train"]
        for criterion in criteria:
            for share in shares:
                row = {"backbone": name, "criterion": criterion, "target": share}
                rows.append(row)
                try:
                    score = CRITERIA[criterion](network, Pictures(samples, Size(SIDE, SIDE), 4, 0))
                    target = Target(Quantity.MULTIPLY_ADDS, share)
                    result = shrink(network, example, None, score, target=target, scope=Scope.GLOBAL)
                except UserError as error:
                    row["refused"] = str(error)
                    continue
                row |= {"multiply_adds": result.multiply_adds, "parameters": result.parameters}
                key = f"cut-{len(rows):03d}"
                row["key"] = key
                save_detector(result.module, Card(CLASSES, result.module.spec), folder / f"{key}.safetensors")
                with torch.no_grad():
                    found = result.module.eval().every_location(images)
                known[f"{key}.logits"], known[f"{key}.boxes"] = found.logits.contiguous(), found.boxes.contiguous()
        save_file(known, folder / "known.safetensors")
        done = subprocess.run([sys.executable, "-c", FRESH, scratch], capture_output=True, text=True, check=True)
    errors = dict(line.split() for line in done.stdout.splitlines())
    for row in rows:
        if (key := row.pop("key", None)) is not None:
            row["relative_error"] = float(errors[key])
        yield row


def sweep_verify(results: dict[str, Any], into: str, only: str, with_oracle: bool) -> None:
    """Fill `verify` and, with the oracle, `torch_pruning`."""
    parts = {"verify": proof, **({"torch_pruning": oracle} if with_oracle else {})}
    for part, ask in parts.items():
        table = results.setdefault(part, {})
        for name, make in subjects().items():
            if name in table or not fnmatchcase(name, only):
                continue
            start = time.perf_counter()
            table[name] = {**ask(make), "seconds": round(time.perf_counter() - start, 1)}
            print(part, name, json.dumps(table[name]), flush=True)
            save(into, results)


def sweep_rebuild(results: dict[str, Any], into: str, only: str) -> None:
    """Fill `rebuild`."""
    table = results.setdefault("rebuild", {})
    for name in nets.TABLE:
        if name in table or not fnmatchcase(name, only):
            continue
        table[name] = list(rebuilt(name, list(CRITERIA), SHARES))
        worst = max((row["relative_error"] for row in table[name] if "relative_error" in row), default=0.0)
        print("rebuild", name, f"worst relative error {worst:.1e}", flush=True)
        save(into, results)


def page(results: dict[str, Any]) -> str:
    """The table of docs/pruning.md, in Markdown."""
    rows = []
    for name, ours in results["verify"].items():
        other = results.get("torch_pruning", {}).get(name)
        said = "not asked"
        if other is not None:
            faults = [f"{other[kind]} {kind}" for kind in ("wrong", "crashed") if other[kind]]
            said = ", ".join([f"{other['exact']} of {other['layers']} exact", *faults])
        exact, worst = f"{ours['exact']} of {ours['groups']}", f"{ours['worst_relative_error']:.0e}"
        rows.append([name, exact, str(ours["skipped"]), worst, said])
    found = table(["network", "groups exact", "skipped", "worst relative error", "Torch-Pruning, convolutions"], rows)
    texts = [found, said_in_short(results["verify"]), said_of_the_oracle(results.get("torch_pruning", {}))]
    return "\n\n".join(text for text in texts if text)


def said_in_short(checked: dict[str, Any]) -> str:
    """The sums of the sweep, and what it does not say."""
    groups, exact, skipped = (sum(ours[key] for ours in checked.values()) for key in ("groups", "exact", "skipped"))
    text = f"{exact:,} of {groups:,} groups of {len(checked)} networks are exact, {skipped} skipped."
    if missing := len(subjects()) - len(checked):
        text += f" {missing} networks are still to be run."
    if silent := [name for name, ours in checked.items() if ours["groups"] and ours["least_change"] == 0]:
        text += f" In {', '.join(silent)} masking one group or more moved nothing: there it says nothing."
    return text


def said_of_the_oracle(asked: dict[str, Any]) -> str:
    """Torch-Pruning's sums; nothing where it was not asked."""
    if not asked:
        return ""
    kinds = ("layers", "exact", "wrong", "crashed")
    layers, exact, wrong, crashed = (sum(row[kind] for row in asked.values()) for kind in kinds)
    whole = sum(row["exact"] == row["layers"] for row in asked.values())
    return (
        f"Torch-Pruning was asked about {len(asked)} networks: {whole} are exact, of all {layers:,} convolutions "
        f"{exact:,} are, {wrong:,} are cut wrongly without an error, {crashed:,} end in an exception."
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["verify", "rebuild", "table"])
    parser.add_argument("--only", default="*", help="names to do, such as 'detector shufflenet*'")
    parser.add_argument("--torch-pruning", type=Path, help="folder that holds the torch_pruning package")
    parser.add_argument("--name", default="exactness", help="of the result file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = load(arguments.name)
    if arguments.part == "table":
        fill(DOCS / "pruning.md", "exactness", page(results))
        return
    if arguments.torch_pruning is not None:
        sys.path.append(str(arguments.torch_pruning))
    if arguments.part == "verify":
        sweep_verify(results, arguments.name, arguments.only, arguments.torch_pruning is not None)
    else:
        sweep_rebuild(results, arguments.name, arguments.only)


if __name__ == "__main__":
    main()

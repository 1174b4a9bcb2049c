"""The pruning study, resumable: every criterion at two shares with one backbone on bccd, then the best two elsewhere.

Each cell is one `leandet prune`: accuracy before, after the cut, after recalibration and after fine-tuning, what it
costs, and p50 in ONNX Runtime measured in turns with the uncut detector. Results are written after each cell; what is
there is not done again, and a cell that was interrupted goes on.

    python benchmarks/pruning.py ../shared/data --work runs/pruning --epochs 40 --train-epochs 100
    python benchmarks/pruning.py ../shared/data --work runs/pruning --again  # times what is there once more
    python benchmarks/pruning.py ../shared/data --work runs/pruning --table  # a table in docs/pruning.md, and a chart
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import DOCS, fill, load, save, table

from leandet.atomic import write_json, write_text
from leandet.compress import Quantity, Scope, Target
from leandet.data.read import read
from leandet.detector.files import load_detector
from leandet.export.stopwatch import Stopwatch
from leandet.pipeline import Options, Pruning, Remaining, prune_detector, train_only
from leandet.pipeline.prune import BENCH_IMAGES, BENCH_SECONDS
from leandet.pipeline.scoring import CRITERIA
from leandet.report.chart import COLOURS, Axis, Series, picture

REMAINING = (0.5, 0.7)


@dataclass(frozen=True, slots=True)
class Cell:
    """One pruning of the study."""

    data: str
    backbone: str
    criterion: str
    remaining: float

    @property
    def key(self) -> str:
        """Its name in the results and on disk."""
        return re.sub(r"[^\w.-]", "_", f"{self.data}-{self.backbone}-{self.criterion}-{self.remaining}")


def first_cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    """Every criterion at both shares, on the first data with the first backbone."""
    for criterion in arguments.criteria:
        for share in arguments.remaining:
            yield Cell(arguments.data[0], arguments.backbones[0], criterion, share)


def further_cells(arguments: argparse.Namespace, best: list[str]) -> Iterator[Cell]:
    """The best criteria on everything else."""
    for data in arguments.data:
        for backbone in arguments.backbones:
            if (data, backbone) == (arguments.data[0], arguments.backbones[0]):
                continue
            for criterion in best:
                for share in arguments.remaining:
                    yield Cell(data, backbone, criterion, share)


def best_two(cells: list[dict[str, Any]], arguments: argparse.Namespace) -> list[str]:
    """The criteria of the first part with the highest AP after fine-tuning, over the shares; not the baseline."""
    total: dict[str, float] = {}
    for cell in cells:
        same = (cell["data"], cell["backbone"]) == (arguments.data[0], arguments.backbones[0])
        if same and "after" in cell and cell["criterion"] != "random":
            total[cell["criterion"]] = total.get(cell["criterion"], 0.0) + cell["after"]["ap"]
    return sorted(total, key=lambda name: -total[name])[:2]


def trained(cell: Cell, arguments: argparse.Namespace) -> Path:
    """The uncut detector, trained where it is not there yet."""
    out: Path = arguments.work / f"{cell.data}-{cell.backbone}"
    if not (out / "stages" / "train.json").is_file():
        options = Options(
            arguments.root / cell.data,
            out,
            cell.backbone,
            arguments.weights,
            arguments.size,
            epochs=arguments.train_epochs,
            threads=arguments.threads,
        )
        row = train_only(options, resume=(out / "build.json").is_file(), tell=print)
        write_json(out / "stages" / "train.json", row)
    return out / "model.safetensors"


def run(cell: Cell, arguments: argparse.Namespace) -> dict[str, Any]:
    """One cell; a refusal is a result too."""
    model = trained(cell, arguments)
    out = arguments.work / f"{cell.key}.safetensors"
    pruning = Pruning(
        Remaining(Target(Quantity.MULTIPLY_ADDS, cell.remaining)),
        criterion=cell.criterion,
        scope=Scope(arguments.scope),
        align=arguments.align,
        steps=arguments.steps,
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        distill=arguments.distill,
        threads=arguments.threads,
    )
    dataset, _ = read(arguments.root / cell.data)
    begun = (out.with_suffix(".pruning") / "prune.json").is_file()
    result = prune_detector(model, dataset, out, pruning, resume=begun, tell=print)
    names = {"data": cell.data, "backbone": cell.backbone, "model": model.parent.name, "path": out.name}
    return {**result, **names}  # where they lie on this machine is nobody's business


def study(arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    """All cells that are not there yet."""
    cells: dict[str, Any] = results.setdefault("cells", {})

    def fill(wanted: Iterator[Cell]) -> None:
        for cell in wanted:
            if cell.key in cells:
                continue
            print(f"== {cell.key}", flush=True)
            cells[cell.key] = {"remaining": cell.remaining, **run(cell, arguments)}
            save(arguments.name, results)

    fill(first_cells(arguments))
    results["best"] = best_two(list(cells.values()), arguments)
    fill(further_cells(arguments, results["best"]))
    save(arguments.name, results)


def time_again(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Time every cell's detectors once more, in turns: a disturbed minute shows beside the others."""
    for key, cell in results["cells"].items():
        uncut, card = load_detector(arguments.work / cell["model"] / "model.safetensors")
        pruned, _ = load_detector(arguments.work / cell["path"])
        dataset, _ = read(arguments.root / cell["data"])
        images = tuple(sample.image for sample in dataset.splits[dataset.judging][:BENCH_IMAGES])
        before, after = Stopwatch(card, images, arguments.threads or cell["threads"], BENCH_SECONDS)(uncut, pruned).rows
        cell.setdefault("again", []).append({"before_p50_ms": before.p50_ms, "p50_ms": after.p50_ms})
        print(f"{key}: {before.p50_ms:.2f} -> {after.p50_ms:.2f} ms")
    save(arguments.name, results)


def times(cell: dict[str, Any]) -> str:
    """The measurement whose ratio is the middle one, and the ratios of all; nothing where none was timed."""
    timed = [one for one in (cell, *cell.get("again", [])) if one["p50_ms"] is not None]
    if not timed:
        return ""
    found = sorted(timed, key=lambda one: one["p50_ms"] / one["before_p50_ms"])
    middle = found[(len(found) - 1) // 2]
    ratios = ", ".join(f"{one['p50_ms'] / one['before_p50_ms']:.2f}" for one in found)
    return f"{middle['before_p50_ms']:.2f} -> {middle['p50_ms']:.2f} ms ({ratios}x)"


def page(results: dict[str, Any]) -> str:
    """All cells, in Markdown."""
    rows = []
    for cell in results["cells"].values():
        points = {point["name"].split("-")[-1]: point for point in cell["points"]}
        share = cell["after"]["multiply_adds"] / cell["before"]["multiply_adds"]
        ap = [
            f"{100 * points[n]['ap']:.1f} %" if n in points else "" for n in ("before", "cut", "recalibrated", "tuned")
        ]
        name = f"{cell['data']}, {cell['backbone']}, {cell['criterion']}"
        rows.append([name, str(cell["align"]), f"{share:.0%}", *ap, times(cell)])
    stages = ["AP", "cut", "recalibrated", "fine-tuned"]
    return table(["detector", "widths in multiples of", "multiply-adds", *stages, "p50"], rows)


def chart(results: dict[str, Any], arguments: argparse.Namespace) -> str:
    """AP after fine-tuning against the multiply-adds left, for the six best criteria of the first part: an SVG."""
    mine = [c for c in results["cells"].values() if c["data"] == arguments.data[0]]
    mine = [c for c in mine if c["backbone"] == arguments.backbones[0]]
    curves: dict[str, list[tuple[float, float]]] = {}
    for cell in mine:
        whole = cell["before"]["multiply_adds"]
        points = curves.setdefault(cell["criterion"], [(100.0, 100 * cell["before"]["ap"])])
        points.append((100 * cell["after"]["multiply_adds"] / whole, 100 * cell["after"]["ap"]))
    names = sorted(curves, key=lambda name: -sum(ap for _, ap in curves[name]))[:COLOURS]
    series = [Series(name, sorted(curves[name])) for name in names]
    title = f"{arguments.backbones[0]} on {arguments.data[0]}, pruned"
    return str(picture(title, series, Axis("multiply-adds left, %"), Axis("AP, %")))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder that holds the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for models and checkpoints")
    parser.add_argument("--name", default="pruning", help="of the result file")
    parser.add_argument("--data", nargs="+", default=["bccd", "cards"])
    parser.add_argument("--backbones", nargs="+", default=["mobilenet_v2", "shufflenet_v2_x1_0"])
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA), choices=list(CRITERIA))
    parser.add_argument("--remaining", nargs="+", type=float, default=REMAINING, help="shares of the multiply-adds")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--train-epochs", type=int)
    parser.add_argument("--epochs", type=int, help="of fine-tuning")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--scope", default="global", choices=[s.value for s in Scope])
    parser.add_argument("--align", type=int)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--distill", type=float, default=1.0, help="weight of the uncut detector's answers")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--again", action="store_true", help="time what is there once more")
    parser.add_argument("--table", action="store_true", help="print what is there")
    arguments = parser.parse_args()
    results = load(arguments.name)
    if arguments.again:
        time_again(results, arguments)
    elif not arguments.table:
        study(arguments, results)
    print(page(results))
    fill(DOCS / "pruning.md", "study", page(results))
    if len({cell["criterion"] for cell in results["cells"].values()}) > 1:  # one alone is compared with nothing
        write_text(DOCS / f"{arguments.name}.svg", chart(results, arguments))


if __name__ == "__main__":
    main()

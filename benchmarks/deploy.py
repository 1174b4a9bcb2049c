"""Every model in every format and precision: accuracy, latency and size.

    python benchmarks/deploy.py MODEL.safetensors... --data DATA [--threads N] [--seconds S] [--out FILE.json]

Each model is exported to all engines installed here, INT8 for ONNX Runtime and OpenVINO included; AP is measured on the
test split (val where there is none), and all files of one model are timed in turns. Finished steps are kept in --out,
so that an interrupted run goes on. `--table docs/deploy.md` writes the table between that file's two markers.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from leandet.atomic import write_json, write_text
from leandet.data.read import read
from leandet.data.sample import Dataset
from leandet.detector.files import load_detector
from leandet.errors import UserError
from leandet.evaluate import check_classes, evaluate
from leandet.export import SUFFIXES, export
from leandet.machine import describe_machine
from leandet.quantize.quantize import calibration_images, quantize
from leandet.runtime import open_runtime
from leandet.runtime.bench import bench

INT8 = ("onnx", "openvino")
BEGIN, END = "<!-- table of benchmarks/deploy.py -->", "<!-- end of table -->"
PICTURES = 32


def prepare(model: Path, dataset: Dataset, folder: Path, note: dict[str, Any], threads: int | None) -> list[Path]:
    """Export what is missing; returns the model's files, the reference first. `note` keeps what went wrong and why."""
    detector, card = load_detector(model)
    images = np.concatenate(calibration_images(dataset.splits["val"], card.spec.size, 8))
    files = [model]
    for name, suffix in SUFFIXES.items():
        path = folder / f"{model.parent.name}-{model.stem}{suffix}"
        try:
            if not path.exists():
                note[f"{name} float32"] = asdict(export(detector, card, path, images, name))
            files.append(path)
            eight = path.with_stem(f"{path.stem}-int8")
            if name in INT8:
                if not eight.exists() or f"{name} int8" not in note:
                    source = folder / f"{model.parent.name}-{model.stem}.onnx"
                    note[f"{name} int8"] = quantize(
                        source, dataset, eight, force=True, threads=threads, tell=say
                    ).to_json()
                files.append(eight)
        except (UserError, ModuleNotFoundError) as error:
            note[f"{name} refused"] = str(error)
            say(f"{name}: {error}")
    return files


def measure(files: list[Path], dataset: Dataset, rows: dict[str, Any], threads: int | None, seconds: float) -> None:
    """Accuracy of each file, once; latency of all in turns."""
    split = "test" if dataset.splits.get("test") else "val"
    samples = dataset.splits[split]
    for path in files:
        if "ap" not in rows.setdefault(path.name, {}):
            runtime = open_runtime(path, threads)
            check_classes(runtime, dataset.classes, str(dataset.root))
            scores, _ = evaluate(runtime, samples, dataset.classes)
            rows[path.name] |= {"ap": scores.ap, "ap_with_nms": scores.ap_with_nms, "split": split}
            say(f"{path.name}: AP {100 * scores.ap:.2f} %")
    report = bench(files, threads, [s.image for s in samples[:PICTURES]], seconds=seconds, fresh=True, warn=say)
    for path, row in zip(files, report.rows, strict=True):
        rows[path.name] |= {k: v for k, v in row.to_json().items() if k not in {"model", "ap"}}
        rows[path.name]["warnings"] = report.warnings


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each file of each model."""
    machine = result["machine"]
    lines = [
        f"Measured on {machine['cpu']}, {machine['usable_cores']} cores; photograph in, boxes out.",
        "",
        "| model | engine | precision | input px | threads | AP % | p50 ms | times faster "
        "| cold start ms | RAM MB | file MB | INT8 gate |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, entry in result["models"].items():
        base = {r["runtime"]: r["p50_ms"] for r in entry["rows"].values() if r.get("precision") == "float32"}
        for row in entry["rows"].values():
            if "p50_ms" not in row:
                continue
            eight = row["precision"] == "int8"
            names = {"onnxruntime": "onnx"}
            tried = entry["notes"].get(f"{names.get(row['runtime'], row['runtime'])} int8") if eight else None
            gate = (
                "-"
                if tried is None
                else "accepted"
                if tried["accepted"]
                else f"refused: {' and '.join(tried['reasons'])}"
            )
            faster = f"{base[row['runtime']] / row['p50_ms']:.2f}" if eight and row["runtime"] in base else "-"
            memory = "-" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 1e6:.0f}"
            height, width = row["size"]
            lines.append(
                f"| {model} | {row['runtime']} | {row['precision']} | {width}x{height} | {row['threads']} "
                f"| {100 * row['ap']:.2f} | {row['p50_ms']:.2f} | {faster} | {row['cold_start_ms']:.0f} | {memory} "
                f"| {row['bytes'] / 1e6:.2f} | {gate} |"
            )
    return "\n".join(lines)


def insert(page: Path, text: str) -> None:
    """Put the table between the page's markers."""
    whole = page.read_text(encoding="utf-8")
    before, _, rest = whole.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise UserError(f"{page} lacks the lines {BEGIN} and {END}.")
    write_text(page, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def say(line: str) -> None:
    """One line of progress."""
    print(line, flush=True)


def main() -> None:
    """Go through the models; every finished one is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/deploy.json"))
    parser.add_argument("--files", type=Path, default=Path("runs/deploy"), help="Folder for the exported models.")
    parser.add_argument("--again", action="store_true", help="Time models again that are in --out already.")
    parser.add_argument("--table", type=Path, help="Page to write the table into.")
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": describe_machine(), "models": {}}
    if options.out.is_file():
        result["models"] = json.loads(options.out.read_text(encoding="utf-8"))["models"]
    if options.models:
        if options.data is None:
            parser.error("--data is needed to measure models")
        dataset, _ = read(options.data)
    for model in options.models:
        name = f"{model.parent.name}/{model.stem}"
        entry = result["models"].setdefault(name, {"notes": {}, "rows": {}, "done": False})
        if entry["done"] and not options.again:
            continue
        say(f"== {name}")
        files = prepare(model, dataset, options.files, entry["notes"], options.threads)
        write_json(options.out, result)
        measure(files, dataset, entry["rows"], options.threads, options.seconds)
        entry["done"] = True
        write_json(options.out, result)
    text = table(result)
    say(text)
    if options.table:
        insert(options.table, text)


if __name__ == "__main__":
    main()

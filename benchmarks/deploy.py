"""Every model in every format and precision: accuracy, latency and size.

    python benchmarks/deploy.py MODEL.safetensors... --data DATA [--threads N] [--seconds S]

Each model is exported to all engines installed here, INT8 for ONNX Runtime and OpenVINO included; AP is measured on the
test split (val where there is none), and all files of one model are timed in turns. Finished models are kept in
benchmarks/results/deploy.json, so that an interrupted run goes on; the table in docs/deploy.md is written from it.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import record

from leandet.data.read import read
from leandet.data.sample import Dataset
from leandet.detector.files import load_detector
from leandet.errors import UserError
from leandet.evaluate import check_classes, evaluate
from leandet.export import SUFFIXES, export
from leandet.quantize.quantize import calibration_images, quantize
from leandet.runtime import open_runtime
from leandet.runtime.bench import bench

INT8 = ("onnx", "openvino")
NAME = "deploy"  # of the result and of its place in docs/deploy.md
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
                    tried = quantize(source, dataset, eight, force=True, threads=threads, tell=say)
                    note[f"{name} int8"] = {**tried.to_json(), "path": eight.name}
                files.append(eight)
        except (UserError, ModuleNotFoundError) as error:
            note[f"{name} refused"] = str(error)
            say(f"{name}: {error}")
    return files


def measure(files: list[Path], dataset: Dataset, rows: dict[str, Any], threads: int | None, seconds: float) -> None:
    """Accuracy of each file, once; latency of all in turns."""
    split = dataset.judging
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
    lines = []
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
            kind = f"{model}, {row['runtime']} {row['precision']}"
            speed = (f"{100 * row['ap']:.2f}", f"{row['p50_ms']:.2f}", faster)
            cost = (f"{row['cold_start_ms']:.0f}", memory, f"{row['bytes'] / 1e6:.2f}")
            lines.append((kind, f"{width}x{height}", str(row["threads"]), *speed, *cost, gate))
    headings = ("model and engine", "input px", "threads", "AP %", "p50 ms", "times faster")
    costs = ("cold start ms", "RAM MB", "file MB", "INT8 gate")
    where = f"On {machine['cpu']}, {machine['usable_cores']} cores, photograph in, boxes out; {result['command']}"
    return f"{where}\n\n{record.table((*headings, *costs), lines)}"


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
    parser.add_argument("--files", type=Path, default=Path("runs/deploy"), help="Folder for the exported models.")
    parser.add_argument("--again", action="store_true", help="Time again what was timed already.")
    options = parser.parse_args()
    result: dict[str, Any] = {"models": {}, **record.load(NAME)}
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
        record.save(NAME, result)
        measure(files, dataset, entry["rows"], options.threads, options.seconds)
        entry["done"] = True
        record.save(NAME, result)
    if result["models"]:
        text = table(record.load(NAME))
        say(text)
        record.fill(record.DOCS / "deploy.md", NAME, text)


if __name__ == "__main__":
    main()

"""Builds to a budget, beside detectors that a person picks by hand: the same latency, recipe and epochs, no search.

Each is built by the command that users have; what this does afterwards is to measure both files again, in turns, in a
process of its own, and to write the table of docs/budget.md:

    leandet build DATA --budget 4ms --time 30m --threads 2 --weights FOLDER --out BUILD
    leandet build DATA --backbone NAME --size SIDE --epochs N --threads 2 --weights FOLDER --out HAND
    python benchmarks/budget.py --name bccd --build BUILD --hand HAND --photographs DATA/test
    python benchmarks/budget.py                                          # the table alone

N is the sum of the epochs of the build's training and fine-tuning; SIDE is the largest whose measured p50 meets the
budget, and --hand may name several folders: the best on `test` of those that meet it counts for the hand. Repeated, it
measures again: all measurements are kept and their median counts, as the speed of a shared machine changes in hours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from record import DOCS, fill, load, save, table

NAME = "budget"
RESULTS = "results.json"
SECONDS = 20.0  # of measurement for each file


def measured(models: list[Path], threads: int, photographs: Path) -> list[dict[str, Any]]:
    """`leandet bench` of all in turns, in a process of its own."""
    words = [sys.executable, "-m", "leandet.cli.app", "bench", *map(str, models), "--json"]
    words += ["--threads", str(threads), "--seconds", str(SECONDS), "--images", str(photographs)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def outcome(folder: Path) -> dict[str, Any]:
    """What a build says of itself."""
    results: dict[str, Any] = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    return results


def told(folder: Path, row: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What a build reached, and its latency measured afterwards, now and before."""
    results = outcome(folder)
    figures = results["chosen"]
    measured_ms = [*before.get("measured_ms", []), row["p50_ms"]]
    names = ("ap", "ap50", "ap_with_nms", "duplicates_per_100", "bytes", "parameters", "multiply_adds")
    return {
        **{name: figures[name] for name in names},
        "p50_in_build_ms": figures["p50_ms"],
        "measured_ms": measured_ms,
        "p50_ms": median(measured_ms),
        **{name: row[name] for name in ("size", "threads", "precision")},
        "budget_ms": results["budget_ms"],
        "stages": [{"name": one["name"], "seconds": one["seconds"], "ap": one["ap"]} for one in results["stages"]],
        "minutes": round(took(folder, results) / 60, 1),
        "planned": architecture(folder),
        "options": {name: nameless(value) for name, value in results["options"].items()},
        "machine": results["machine"],
        "versions": results["versions"],
    }


def nameless(value: Any) -> Any:
    """An option without the folders of this machine."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def took(folder: Path, results: dict[str, Any]) -> float:
    """Seconds of all stages, those before the training among them."""
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "stages").glob("*.json"))]
    return sum(float(one["seconds"]) for one in kept or results["stages"])


def architecture(folder: Path) -> list[Any] | None:
    """Backbone, side and epochs as the scouts decided; None for a build without a budget."""
    path = folder / "stages" / "scout.json"
    if not path.is_file():
        return None
    plan = json.loads(path.read_text(encoding="utf-8"))
    return [*plan["architecture"], plan["epochs"]]


def page(results: dict[str, Any]) -> str:
    """The table of docs/budget.md."""
    lines = []
    for key in sorted(results["rows"]):
        row = results["rows"][key]
        found, hands = row["build"], row["hands"]
        within = [hand for hand in hands if hand["p50_ms"] <= found["budget_ms"]]
        best = max(within or hands, key=lambda hand: hand["ap"], default=None)
        size = f"{found['size'][1]}x{found['size'][0]} px{', INT8' if found.get('precision') == 'int8' else ''}"
        lines.append(
            [
                f"{row['data']}, {found['budget_ms']:g} ms{', --int8' if found['options']['int8'] else ''}",
                f"{found['planned'][0]}, {size}",
                f"{found['p50_ms']:.2f}",
                f"{sum(ms <= found['budget_ms'] for ms in found['measured_ms'])} of {len(found['measured_ms'])}",
                f"{found['ap']:.3f}",
                f"{found['minutes']:.0f}",
                *(["", "", ""] if best is None else by_hand(best)),
            ]
        )
    return table(
        ["budget", "found", "p50 after, ms", "met", "AP", "took, min", "by hand", "its p50, ms", "its AP"], lines
    )


def by_hand(hand: dict[str, Any]) -> list[str]:
    """A picked detector's cells."""
    size, options = hand["size"], hand["options"]
    return [f"{options['backbone']}, {size[1]}x{size[0]} px", f"{hand['p50_ms']:.2f}", f"{hand['ap']:.3f}"]


def main() -> None:
    """Measure what is named, keep it, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", help="of the data")
    parser.add_argument("--build", type=Path)
    parser.add_argument("--hand", type=Path, nargs="*", default=[])
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    results = load(NAME) or {"rows": {}}
    if asked.build is not None:
        folders = [asked.build, *asked.hand]
        files = [folder / outcome(folder)["chosen"]["path"] for folder in folders]
        rows = measured(files, asked.threads, asked.photographs)
        built = outcome(asked.build)
        key = f"{asked.name} {built['budget_ms']:04.1f} ms{' int8' if built['options']['int8'] else ''}"
        known = results["rows"].setdefault(key, {"data": asked.name})
        before = [known.get("build", {}), *known.get("hands", [])] + [{}] * len(folders)
        found, *hands = [told(*one) for one in zip(folders, rows, before, strict=False)]
        known.update(build=found, hands=hands)
        save(NAME, {"rows": results["rows"]})
    text = page(results)
    print(text)
    fill(DOCS / "budget.md", "builds", text)


if __name__ == "__main__":
    main()

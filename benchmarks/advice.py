"""Whether advice keeps its word: the whole network before and after, beside the gain measured on the changed layers.

Run: .venv/bin/python benchmarks/advice.py [--runtime onnx] [--backbones shufflenet_v2_x1_0 mobilenet_v3_small]

For each backbone the best advice that a spec can say is applied; both networks are exported and timed in turns. Goal:
faster at the same multiply-adds, by the predicted gain within a third. Each runtime has a result file and a table in
docs/advice.md, which is written anew.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import record
import torch
from timing import call, in_turns

from leandet import nets
from leandet.advise import Advice, advise
from leandet.compress.narrow import narrow
from leandet.cost.count import count
from leandet.cost.latency import Predictor
from leandet.cost.profile import EngineName

BACKBONES = ("shufflenet_v2_x1_0", "shufflenet_v1_g3_x1_0", "mobilenet_v3_small", "mobilenet_v2")
SHAPE = (1, 3, 224, 224)
MOST = 3  # pieces of advice of one backbone
PAGE = record.DOCS / "advice.md"


def network(name: str, advice: Advice | None) -> torch.nn.Module:
    """A backbone with its classifier, changed or not."""
    torch.manual_seed(0)
    built = nets.create(advice.backbone if advice is not None and advice.backbone else name).eval()
    if advice is not None and advice.widths:
        narrow(built, torch.zeros(SHAPE), advice.widths)
    return built.eval()


def keep_word(name: str, runtime: EngineName, threads: int) -> list[dict[str, Any]]:
    """The best advice for one backbone, predicted and measured."""

    def tell(*words: object) -> None:
        print(name, *words, file=sys.stderr, flush=True)

    predictor = Predictor(runtime, threads, lambda done, of: tell(done, "of", of, "pieces"))
    found = advise(network(name, None), SHAPE[2:], predictor, backbone=name, tell=tell)
    rows = []
    for one in [advice for advice in found if advice.can_be_applied][:MOST]:
        pair = [network(name, None), network(name, one)]
        before, after = in_turns([call(part, SHAPE, runtime, threads) for part in pair], threads, seconds=2)
        rows.append(
            {
                "backbone": name,
                "advice": one.to_json(),
                "multiply_adds": [count(part, torch.zeros(SHAPE)).multiply_adds for part in pair],
                "before_ms": round(before, 4),
                "after_ms": round(after, 4),
                "predicted_gain_ms": round(one.gain_ms, 4),
                "measured_gain_ms": round(before - after, 4),
                "within_a_third": abs((before - after) / one.gain_ms - 1) <= 1 / 3,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    headings = [
        "backbone",
        "advice",
        "multiply-adds, M",
        "whole before, ms",
        "after, ms",
        "gain promised, ms",
        "kept, ms",
    ]
    written = []
    for row in rows:
        before, after = (work / 1e6 for work in row["multiply_adds"])
        figures = [f"{row[key]:.3f}" for key in ("before_ms", "after_ms", "predicted_gain_ms", "measured_gain_ms")]
        what = f"{row['advice']['guideline']}: {row['advice']['change']}"
        written.append([f"{row['backbone']}: {what}", f"{before:.1f} -> {after:.1f}", *figures])
    return record.table(["backbone and advice", *headings[2:]], written)


def main() -> None:
    """Every backbone; the JSON is written after each, and an interrupted run goes on from it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=["onnx", "openvino"], default="onnx")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"runtime": arguments.runtime, "threads": arguments.threads}
    result = f"advice_{arguments.runtime}"
    found = record.load(result)
    if found.get("settings") != settings:
        found = {"settings": settings, "done": [], "rows": []}
    for name in arguments.backbones:
        if name not in found["done"]:
            found["rows"] += keep_word(name, EngineName(arguments.runtime), arguments.threads)
            found["done"].append(name)
            record.save(result, found)
    print(table(found["rows"]))
    record.fill(PAGE, arguments.runtime, table(found["rows"]))


if __name__ == "__main__":
    main()

"""Data flows one way: every room imports only from rooms upstream, and the edge world imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import leandet

ROOT = Path(leandet.__file__).parent

# Upstream first. A room is a folder or a module; a module of a folder that is its own room is written with a dot.
ROOMS = [
    "errors",
    "atomic",
    "request",
    "machine",
    "cache",
    "engines",
    "loggers",
    "exporter",
    "detections",
    "preprocess",
    "detector.spec",  # what is built, free of torch: the card describes it, and the detector is built from it
    "card",
    "data",
    "nets",
    "cost",
    "compress",  # channel groups and cuts know no detector: a detector is built at its widths by them
    "sparsify",  # masks and the sparse file know no detector either: a detector is read through it
    "detector",
    "advise",  # of a network, of any kind; an advice is applied to a detector's spec
    "metrics",
    "runtime",
    "evaluate",
    "learn",
    "export",
    "quantize",
    "sparsify.detectors",  # masks a detector, trains it on and measures it
    "report",
    "search",
    "cluster",
    "pipeline",
    "cli",
    "",  # the public door
    "__main__",
]
TRAINING = {"torch", "torchvision", "lightning", "safetensors", "tensorboard", "timm", "onnx", "optuna"}
EXTRAS = {"openvino", "ncnn", "ai_edge_litert", "nncf", "pnnx", "litert_torch", "supervision", "trackers", "ray"}
EDGE_ROOMS = {"errors", "atomic", "machine", "engines", "detections", "preprocess", "detector.spec", "card", "data"} | {
    "metrics",
    "runtime",
    "evaluate",
    "cluster",
    "cli",
    "",
    "__main__",
}
NOT_EDGE = {"data.augment", "data.batch", "data.loader", "runtime.torch", "cluster.search"}
ENGINES = {
    "runtime.openvino",
    "runtime.ncnn",
    "runtime.litert",
    "runtime.video",
}  # loaded only when a model asks for them


def name_of(path: Path) -> str:
    """`runtime/onnx.py` -> `runtime.onnx`; a folder's `__init__.py` is the folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def room_of(module: str) -> str:
    return module if module in ROOMS else module.partition(".")[0]


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(module: str, *, at_load: bool = False) -> set[str]:
    """Full names of what a module imports; with `at_load` only what is imported when the module is."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_load and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                known = inner.removeprefix("leandet.") in MODULES
                found.add(inner if known else str(node.module))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    return found


def own(names: set[str]) -> set[str]:
    return {n.removeprefix("leandet").removeprefix(".") for n in names if n.partition(".")[0] == "leandet"}


def test_the_reader_of_imports_sees_them():
    assert {"torch", "torchvision.transforms"} <= imports("data.augment", at_load=True) | {"torchvision.transforms"}
    assert "runtime.onnx" in own(imports("runtime"))
    assert "runtime.onnx" not in own(imports("runtime", at_load=True))
    assert "pipeline" in own(imports("cli.make"))
    assert "pipeline" not in own(imports("cli.make", at_load=True))


def test_every_room_has_its_place():
    assert {room_of(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_from_upstream(module):
    place = ROOMS.index(room_of(module))
    wrong = {n for n in own(imports(module)) if ROOMS.index(room_of(n)) > place}
    assert not wrong, f"{module or 'leandet'} imports from downstream: {sorted(wrong)}"


EDGE = sorted(m for m in MODULES if room_of(m) in EDGE_ROOMS and m not in NOT_EDGE)


@pytest.mark.parametrize("module", EDGE)
def test_the_edge_world_loads_without_what_trains(module):
    found = imports(module, at_load=True)
    assert not {n.partition(".")[0] for n in found} & TRAINING
    assert own(found) <= set(EDGE), "imports a module of the training world"


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


BLOCK = f"import sys\nfor name in {sorted(TRAINING | EXTRAS)}: sys.modules[name] = None\n"


def test_the_block_does_block():
    assert "ModuleNotFoundError" in python(BLOCK + "import torch.nn").stderr


def test_the_edge_world_really_loads_without_what_trains():
    names = [f"leandet.{m}".rstrip(".") for m in EDGE if m not in ENGINES]
    code = BLOCK + f"import importlib\nfor name in {names}: importlib.import_module(name)\n"
    code += "import leandet\nleandet.Detections, leandet.open_runtime, leandet.UserError\nprint('fine')"
    result = python(code)
    assert result.stdout == "fine\n", result.stderr


def test_the_public_door_takes_no_torch():
    result = python("import leandet, sys\nleandet.open_runtime\nprint(sorted({'torch', 'cv2'} & set(sys.modules)))")
    assert result.stdout == "['cv2']\n", result.stderr


@pytest.mark.parametrize("name", ["Detector", "load", "build", "Options"])
def test_the_training_world_says_what_to_install(name):
    result = python(BLOCK + f"import leandet\nleandet.{name}")
    assert "ImportError" in result.stderr
    assert "pip install 'leandet[train]'" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["detect", "--help"], ["--version"]])
def test_the_command_line_explains_itself_without_torch(arguments):
    code = BLOCK + f"sys.argv = ['leandet', *{arguments}]\nfrom leandet.cli.app import main\nmain()"
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert "leandet" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "DATA", "--out", "o"],
        ["build", "--demo", "--out", "OUT"],
        ["export", "m.safetensors"],
        ["nets"],
        ["profile", "mobilenet_v2"],
    ],
)
def test_verbs_that_train_say_what_to_install(arguments, tmp_path):
    arguments = [str(tmp_path) if a in {"DATA", "OUT"} else a for a in arguments]
    code = BLOCK + f"sys.argv = ['leandet', *{arguments}]\nfrom leandet.cli.app import main\nmain()"
    result = python(code)
    assert "leandet[train]" in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == 2

"""The embedded data set: pictures of plain shapes among clutter, drawn in code, so that nothing need be downloaded."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from leandet.data.ground import background, clutter
from leandet.data.scene import SCENE, Scene
from leandet.errors import UserError
from leandet.preprocess import Image

CLASSES = ("disc", "square", "triangle", "star", "ring")
MANIFEST = "shapes.json"

_DRAWING = 4  # of the drawing code: raise it when the same seed no longer gives the same pictures
_FINE = 4  # subpixels along each axis: masks are drawn at this scale, so boxes are right to a quarter of a pixel
_SLACK = 1.0  # pixels by which the visible extent may fall short of the whole one
_CONTRAST = 110.0  # distance in RGB of an object's colour from what it lies on
_QUALITY = 92

Mask = npt.NDArray[np.uint8]
Owners = npt.NDArray[np.int16]
Points = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in subpixels, half open


@dataclass(frozen=True, slots=True)
class DrawnShape:
    """One labelled shape in a drawn picture.

    Attributes:
        label: index into `CLASSES`.
        box: (x1, y1, x2, y2) in pixels, tight to what is seen of the shape, right to a quarter of a pixel; of the
            whole shape where the scene lets its ends be hidden.
        area: visible area in square pixels.
        visible: part of the shape that no later shape covers, `Scene.visible` to 1.
    """

    label: int
    box: tuple[float, float, float, float]
    area: float
    visible: float


@dataclass(frozen=True, slots=True)
class _Placed:
    """A shape as put on the canvas: `box` and `area` of the whole shape, in subpixels."""

    label: int
    box: Box
    area: int
    colour: Points


def draw_shapes(
    out: Path, *, train: int = 400, val: int = 100, side: int = 256, seed: int = 0, scene: Scene = SCENE
) -> Path:
    """Write the embedded data set in COCO layout; the same arguments give the same files.

    `out` gets `annotations/instances_train.json`, `annotations/instances_val.json`, the pictures `train/*.jpg` and
    `val/*.jpg`, and a manifest. It appears only when complete. A complete folder drawn with the same arguments is kept
    as it is; a folder that this function drew with other arguments is replaced.

    Args:
        out: the folder to make.
        train: pictures to train on, at least 1; every class is in a split of 5 or more.
        val: pictures to judge by, at least 1.
        side: width and height of each picture in pixels, at least 64.
        seed: at least 0.
        scene: what the pictures show.

    Returns:
        `out`.

    Raises:
        UserError: if an argument is out of range, `out` holds something that this function did not draw, or the disk
            refuses.
    """
    if train < 1 or val < 1 or side < 64 or seed < 0:
        raise UserError(
            f"drawing shapes needs train and val of at least 1, side of at least 64 and seed of at least 0: "
            f"got train={train}, val={val}, side={side}, seed={seed}."
        )
    manifest: dict[str, int | str] = {"drawing": _DRAWING, "train": train, "val": val, "side": side, "seed": seed}
    manifest |= {} if scene == SCENE else {"scene": repr(scene)}
    found = _read_manifest(out)
    if found == manifest and _is_complete(out, manifest):
        return out
    if found is None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and is not a set of drawn shapes: name another folder or remove it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out} cannot be made: {error.strerror}.") from error
    try:
        fresh = workplace / "fresh"
        (fresh / "annotations").mkdir(parents=True)
        for split, (name, count) in enumerate((("train", train), ("val", val))):
            _write_split(fresh, name, split, count, side, seed, scene)
        (fresh / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        if out.exists():
            out.replace(workplace / "old")
        fresh.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return out


def draw_picture(
    side: int, rng: np.random.Generator, first: int = 0, scene: Scene = SCENE
) -> tuple[Image, list[DrawnShape]]:
    """One picture and its labels.

    Args:
        side: width and height in pixels.
        rng: the source of every choice.
        first: label of the first shape; the others' are drawn by lot.
        scene: what the picture shows.

    Returns:
        uint8 (side, side, 3) RGB, and the shapes in the order drawn.
    """
    canvas = background(side, rng)
    clutter(canvas, rng)
    owners = np.full((side * _FINE, side * _FINE), -1, np.int16)
    placed: list[_Placed] = []
    wanted = int(rng.integers(scene.fewest, scene.most + 1))
    for number in range(wanted):
        label = first if number == 0 or scene.alike else int(rng.integers(len(CLASSES)))
        for _ in range(24):
            corner, mask = _propose(label, side, placed, rng, scene)
            if _fits(owners, placed, corner, mask, scene):
                placed.append(_put(canvas, owners, placed, label, corner, mask, rng))
                break
    labels = [_label(owners, i, shape, whole=scene.whole) for i, shape in enumerate(placed)]
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8), labels


# ---------------------------------------------------------------- files


def _read_manifest(out: Path) -> object:
    """The manifest of a folder drawn before; None where there is none."""
    try:
        return json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _is_complete(out: Path, manifest: dict[str, int | str]) -> bool:
    return all(
        (out / "annotations" / f"instances_{name}.json").is_file()
        and sum(1 for _ in (out / name).glob("*.jpg")) == manifest[name]
        for name in ("train", "val")
    )


def _write_split(out: Path, name: str, split: int, count: int, side: int, seed: int, scene: Scene) -> None:
    """The pictures and the COCO file of one split."""
    (out / name).mkdir()
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        # A generator for each picture: a longer split begins with the same pictures as a shorter one.
        picture, shapes = draw_picture(side, np.random.default_rng([seed, split, index]), index % len(CLASSES), scene)
        file = f"{index + 1:06d}.jpg"
        done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not done:
            raise RuntimeError(f"OpenCV could not encode {file}")
        (out / name / file).write_bytes(data.tobytes())
        images.append({"id": index + 1, "file_name": file, "width": side, "height": side})
        for shape in shapes:
            x1, y1, x2, y2 = shape.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": shape.label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": shape.area,
                    "iscrowd": 0,
                    "segmentation": [],
                }
            )
    content = {
        "info": {"description": "leandet's drawn shapes", "version": str(_DRAWING)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": n, "supercategory": "shape"} for i, n in enumerate(CLASSES)],
    }
    (out / "annotations" / f"instances_{name}.json").write_text(json.dumps(content), encoding="utf-8")


# ---------------------------------------------------------------- shapes


def _outlines(label: int, rng: np.random.Generator) -> list[Points]:
    """The closed outlines (N, 2) of a shape around the origin, turned and stretched; a second one is a hole."""
    name = CLASSES[label]
    if name in ("disc", "ring"):
        angles = np.linspace(0, 2 * math.pi, 96, endpoint=False)
        radii = np.ones(96)
    elif name == "star":
        angles = np.linspace(0, 2 * math.pi, 10, endpoint=False)
        radii = np.where(np.arange(10) % 2, rng.uniform(0.4, 0.5), 1.0)
    else:
        corners = 4 if name == "square" else 3
        angles = np.linspace(0, 2 * math.pi, corners, endpoint=False) + (math.pi / 4 if corners == 4 else 0)
        radii = np.ones(corners)
    outline = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    outline[:, 0] *= rng.uniform(0.78, 1.28)
    # Half of the shapes stand nearly upright, as most things in photographs do; the rest are turned at will.
    turn = rng.normal(0, 0.08) - math.pi / 2 if rng.random() < 0.5 else rng.uniform(0, 2 * math.pi)
    outline = outline @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return [outline, outline * rng.uniform(0.5, 0.65)] if name == "ring" else [outline]


def _propose(
    label: int, side: int, placed: list[_Placed], rng: np.random.Generator, scene: Scene
) -> tuple[tuple[int, int], Mask]:
    """A shape of random form, size and place.

    Returns:
        The subpixel (x, y) of the mask's corner, whole pixels, and the mask: 0 or 255, at the subpixel scale, both
        sides whole pixels.
    """
    outlines = _outlines(label, rng)
    longer = side * math.exp(rng.uniform(math.log(scene.smallest), math.log(scene.largest))) * _FINE
    scale = longer / np.ptp(outlines[0], axis=0).max()
    outlines = [outline * scale for outline in outlines]
    half = np.abs(outlines[0]).max(axis=0)
    nearest, limit = (
        half + 2,
        side * _FINE - half - 2,
    )  # one more than the mask's border: rounding may not leave the canvas
    centre = rng.uniform(nearest, limit)
    if placed and rng.random() < scene.beside:  # beside another shape, so that some overlap
        other = placed[int(rng.integers(len(placed)))].box
        middle = np.array([other[0] + other[2], other[1] + other[3]]) / 2
        reach = (half + np.array([other[2] - other[0], other[3] - other[1]]) / 2) * rng.uniform(*scene.reach)
        angle = rng.uniform(0, 2 * math.pi)
        centre = np.clip(middle + reach * np.array([math.cos(angle), math.sin(angle)]), nearest, limit)
    low = np.floor((centre - half - 1) / _FINE).astype(int) * _FINE
    size = np.ceil((centre + half + 1 - low) / _FINE).astype(int) * _FINE
    mask = np.zeros((int(size[1]), int(size[0])), np.uint8)
    cv2.fillPoly(mask, [np.round(outline + centre - low).astype(np.int32) for outline in outlines], 255)
    return (int(low[0]), int(low[1])), mask


def _extent(mask: npt.NDArray[np.bool_], corner: tuple[int, int]) -> Box:
    """The tight box of a mask's set subpixels, on the canvas; the mask has at least one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = corner
    return x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1


def _fits(owners: Owners, placed: list[_Placed], corner: tuple[int, int], mask: Mask, scene: Scene) -> bool:
    """Whether every shape under the mask stays visible enough, and its visible extent its whole extent if it must.

    The second condition makes a label's box plain from the pixels: nobody has to guess how far a shape goes on.
    """
    x, y = corner
    under = owners[y : y + mask.shape[0], x : x + mask.shape[1]]
    for number in np.unique(under[mask > 0]):
        if number < 0:
            continue
        shape = placed[number]
        x1, y1, x2, y2 = shape.box
        left = owners[y1:y2, x1:x2] == number
        a1, b1, a2, b2 = max(x, x1), max(y, y1), min(x + mask.shape[1], x2), min(y + mask.shape[0], y2)
        left[b1 - y1 : b2 - y1, a1 - x1 : a2 - x1] &= mask[b1 - y : b2 - y, a1 - x : a2 - x] == 0
        if np.count_nonzero(left) < scene.visible * shape.area:
            return False
        seen = _extent(left, (x1, y1)) if scene.whole else shape.box
        if max(abs(s - w) for s, w in zip(seen, shape.box, strict=True)) > _SLACK * _FINE:
            return False
    return True


def _put(
    canvas: npt.NDArray[np.float32],
    owners: Owners,
    placed: list[_Placed],
    label: int,
    corner: tuple[int, int],
    mask: Mask,
    rng: np.random.Generator,
) -> _Placed:
    """Paint the shape over canvas (pixels) and owners (subpixels), both in place."""
    x, y = corner
    height, width = mask.shape[0] // _FINE, mask.shape[1] // _FINE
    under = owners[y : y + mask.shape[0], x : x + mask.shape[1]]
    region = canvas[y // _FINE : y // _FINE + height, x // _FINE : x // _FINE + width]
    alpha = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    covered = [placed[n].colour for n in np.unique(under[mask > 0]) if n >= 0]
    colour = _contrasting(label, [region.reshape(-1, 3).mean(axis=0), *covered], rng)
    under[mask > 0] = len(placed)
    # Light falls from one side, so that a shape is no flat patch of one colour.
    slope = rng.uniform(-0.16, 0.16, 2)
    shade = 1 + np.add.outer(np.linspace(-slope[0], slope[0], height), np.linspace(-slope[1], slope[1], width))
    grain = rng.normal(0, rng.uniform(0, 6), (height, width, 1))
    region += alpha * (np.clip(colour * shade[..., None] + grain, 0, 255) - region).astype(np.float32)
    return _Placed(label, _extent(mask > 0, corner), int(np.count_nonzero(mask)), colour)


def _label(owners: Owners, number: int, shape: _Placed, *, whole: bool) -> DrawnShape:
    x1, y1, x2, y2 = shape.box
    seen = owners[y1:y2, x1:x2] == number
    area = int(np.count_nonzero(seen))
    left, top, right, bottom = (v / _FINE for v in (_extent(seen, (x1, y1)) if whole else shape.box))
    return DrawnShape(shape.label, (left, top, right, bottom), area / _FINE**2, area / shape.area)


# ---------------------------------------------------------------- colours


def _colours(label: int, count: int, rng: np.random.Generator) -> Points:
    """RGB (count, 3) in [0, 255] of a class: each keeps to its part of the colour circle, as many things do."""
    hue = 6 * (label / len(CLASSES) + rng.normal(0, 0.025, (count, 1)))
    saturation, value = rng.uniform(0.6, 1, (count, 1)), rng.uniform(110, 250, (count, 1))
    k = (np.array([5, 3, 1]) + hue) % 6
    return np.asarray(value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1)), np.float64)


def _contrasting(label: int, others: list[Points], rng: np.random.Generator) -> Points:
    """RGB in [0, 255] of the class that stands off from all `others`; the best of 40 where none is far enough."""
    choices = _colours(label, 40, rng)
    distance = np.min([np.linalg.norm(choices - other, axis=1) for other in others], axis=0)
    far = np.flatnonzero(distance >= _CONTRAST)
    return np.asarray(choices[far[0] if len(far) else int(distance.argmax())], np.float64)

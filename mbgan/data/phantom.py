"""The paper's data set, drawn: H&E pictures of known nuclei for machines without the real ones."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mbgan.data.phantom_cells import SIDE, Field, Nucleus
from mbgan.data.phantom_faults import plant_faults
from mbgan.data.phantom_stain import stain
from mbgan.data.phantom_tissue import DRAW, UM_PER_PIXEL, Habit, lay_out
from mbgan.files import remove_drafts, whole
from mbgan.stains import EOSIN, HEMATOXYLIN

log = logging.getLogger(__name__)

VERSION = 1  # raise with every change to the pictures: caches are keyed by it
COUNTS = {"10x": 202, "100x": 153}  # of the paper, sec. III
CLASSES = tuple(DRAW)
# The paper has 11 patients and five classes, without saying who has what: classic is the most
# frequent, and every class has two patients or more, so that patients can be split.
PATIENTS = {
    1: "classic",
    2: "desmoplastic",
    3: "nodular",
    4: "large_cell",
    5: "normal",
    6: "classic",
    7: "desmoplastic",
    8: "nodular",
    9: "large_cell",
    10: "normal",
    11: "classic",
}
# Optical density of hematoxylin and of eosin in R, G, B: Ruifrok & Johnston 2001, and Macenko et
# al. 2009 (ISBI, p. 1107). A patient lies between the two.
RUIFROK = np.array([HEMATOXYLIN, EOSIN])
MACENKO = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])


@dataclass(frozen=True)
class Slide:
    """How one patient's slide is stained, lit and photographed."""

    stains: NDArray[np.float64]  # [2, 3], unit vectors of optical density
    light: NDArray[np.float64]  # [3], I0 in 0..255
    habit: Habit


class Job(NamedTuple):
    """One picture to draw."""

    magnification: str
    label: str
    patient: int
    number: int  # among the patient's at this magnification

    @property
    def path(self) -> Path:
        """Place in the data set, without suffix."""
        return Path(self.magnification, self.label, f"patient{self.patient:02d}_{self.number:04d}")


def _generator(*key: object) -> np.random.Generator:
    """Return a generator that depends on the key alone, the same on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def _slide(patient: int, seed: int) -> Slide:
    rng = _generator("slide", patient, seed)
    mix = rng.uniform([[0.4], [0.0]], [[1.0], [0.5]])
    stains = RUIFROK * mix + MACENKO * (1 - mix) + rng.normal(0, 0.02, (2, 3))
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    light = 240 * (1 + rng.normal(0, 0.03, 3))
    cast = rng.random()
    if cast < 0.15:  # a white balance set on the wrong lamp, as in the paper's figure 6
        light *= [0.87, 1.0, 0.97]
    elif cast < 0.30:
        light *= [1.0, 0.95, 0.89]
    habit = Habit(
        shrinkage=rng.uniform(0.05, 1.0),
        fibrillarity=rng.uniform(0, 1),
        eosin=rng.uniform(0.75, 1.35),
        hematoxylin=rng.uniform(0.80, 1.20),
        thickness=rng.uniform(0.85, 1.2),
    )
    return Slide(stains, np.minimum(light, 250), habit)


def transmit(
    hematoxylin: Field, eosin: Field, stains: NDArray[np.float64], light: NDArray[np.float64]
) -> Field:
    """Return the light behind stained tissue: I = I0 * exp(-(c_H * od_H + c_E * od_E)).

    Args:
        hematoxylin: amounts c_H [H, W], natural optical density along the stain vector.
        eosin: amounts c_E [H, W].
        stains: od_H and od_E [2, 3], of R, G, B.
        light: I0 [3], in 0..255.

    Returns:
        Intensities [H, W, 3] in 0..I0.
    """
    h, e = stains.astype(np.float32)
    # Not a matrix product: BLAS may round differently with the number of its threads.
    density = hematoxylin[..., None] * h + eosin[..., None] * e
    return np.asarray(light.astype(np.float32) * np.exp(-density), dtype=np.float32)


def draw_image(
    magnification: str, label: str, patient: int, index: int, seed: int
) -> tuple[NDArray[np.uint8], list[Nucleus]]:
    """Draw one picture and return it with every nucleus that shows in it.

    Args:
        magnification: "10x" (2 um per pixel) or "100x" (0.27 um per pixel).
        label: one of CLASSES.
        patient: sets stain, light and texture; the same over all of a patient's pictures.
        index: of the picture among the patient's at this magnification.
        seed: of the data set.

    Returns:
        Picture [256, 256, 3], and its nuclei in pixels.

    Raises:
        ValueError: if magnification or label is unknown.
    """
    _check_magnification(magnification)
    if label not in CLASSES:
        raise ValueError(f"label must be one of {', '.join(CLASSES)}, got {label!r}")
    slide = _slide(patient, seed)
    rng = _generator("picture", magnification, label, patient, index, seed)
    hematoxylin, eosin, nuclei = stain(*lay_out(rng, magnification, label, slide.habit))
    return _photograph(hematoxylin, eosin, slide, rng), nuclei


def _photograph(
    hematoxylin: Field, eosin: Field, slide: Slide, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Light the section, and take its picture with a lens and a sensor that have their faults."""
    light = slide.light * (1 + rng.normal(0, 0.015))
    fine = transmit(hematoxylin, eosin, slide.stains, light)
    half = SIDE // 2
    picture = fine.reshape(half, 2, half, 2, 3).mean((1, 3))
    blur = rng.uniform(0.25, 0.65)  # px; depth of focus differs from shot to shot
    picture = ndimage.gaussian_filter(picture, (blur, blur, 0))
    # Cameras sharpen.
    soft = ndimage.gaussian_filter(picture, (1.2, 1.2, 0))
    picture = picture + rng.uniform(0.2, 0.6) * (picture - soft)
    y, x = np.mgrid[-1 : 1 : half * 1j, -1 : 1 : half * 1j]
    cx, cy = rng.uniform(-0.4, 0.4, 2)
    falloff = 1 - rng.uniform(0.0, 0.06) * ((x - cx) ** 2 + (y - cy) ** 2)
    picture = picture * falloff[..., None]
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    picture = picture + grain * np.sqrt(np.maximum(picture, 0) * 0.012 + 0.6)  # shot and read noise
    return np.asarray(np.clip(np.rint(picture), 0, 255), dtype=np.uint8)


def _check_magnification(magnification: str) -> None:
    if magnification not in UM_PER_PIXEL:
        known = " or ".join(repr(m) for m in UM_PER_PIXEL)
        raise ValueError(
            f"magnification must be {known} for drawn images, got {magnification!r}; "
            "images of your own (data=folder) may have any other"
        )


def plan(counts: Mapping[str, int] = COUNTS) -> list[Job]:
    """Return the pictures of a data set: each patient has one class and is at each magnification.

    Raises:
        ValueError: if a magnification is unknown or a count is below 1.
    """
    jobs = []
    for magnification, count in counts.items():
        _check_magnification(magnification)
        if count < 1:
            raise ValueError(
                f"counts must be at least 1, got {count} for {magnification!r}; "
                "leave a magnification out to have none of it"
            )
        for i in range(count):
            patient = i % len(PATIENTS) + 1
            jobs.append(Job(magnification, PATIENTS[patient], patient, i // len(PATIENTS)))
    return jobs


def phantom_dir(
    cache_dir: str | Path, seed: int = 0, counts: Mapping[str, int] = COUNTS, faults: int = 0
) -> Path:
    """Return the folder of the drawn data set, drawing it on first use.

    It holds `<magnification>/<class>/patient<NN>_<NNNN>.jpg`, and for each picture its nuclei
    in `truth/` under the same path with the suffix `.json`: one list per field of `Nucleus`
    (`read_truth` reads it). The same seed and counts give the same bytes, on any number of cores.

    Args:
        cache_dir: parent folder; `~` is expanded.
        seed: of every picture.
        counts: pictures per magnification, at least 1 each.
        faults: how many to plant of each fault at each magnification (`plant_faults`).

    Raises:
        ValueError: if a magnification is unknown, or a count is below 1 or too low for the faults.
    """
    jobs = plan(counts)
    sizes = "_".join(f"{m}-{n}" for m, n in sorted(counts.items()))
    name = f"phantom_v{VERSION}_seed{seed}_{sizes}" + (f"_faults{faults}" if faults else "")
    final = Path(cache_dir).expanduser() / name
    if final.is_dir():
        return final
    log.info("drawing the phantom data set: %d images into %s", len(jobs), final)
    final.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(final.parent, final.name)
    try:
        with whole(final) as draft:  # not mkdtemp: others may read it
            draft.mkdir()
            if faults:
                plant_faults(phantom_dir(cache_dir, seed, counts), draft, seed, faults)
            else:
                # loky, because its workers do not import the caller's __main__ with all of torch.
                workers = min(len(jobs) // 8 or 1, os.cpu_count() or 1)  # a few need no worker
                Parallel(n_jobs=workers)(delayed(_save)(job, seed, draft) for job in jobs)
    except OSError:  # another process was first; its pictures are the same
        if not final.is_dir():
            raise
    return final


def read_truth(image: str | Path) -> list[Nucleus]:
    """Return the nuclei of a drawn picture from its place in a folder of `phantom_dir`."""
    image = Path(image)
    root = image.parents[2]
    truth = (root / "truth" / image.relative_to(root)).with_suffix(".json")
    return list(map(Nucleus._make, zip(*json.loads(truth.read_text()).values(), strict=True)))


def _save(job: Job, seed: int, root: Path) -> None:
    picture, nuclei = draw_image(*job, seed)
    image, truth = root / job.path, root / "truth" / job.path
    image.parent.mkdir(parents=True, exist_ok=True)
    truth.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(image.with_suffix(".jpg"), quality=93, subsampling=0)
    columns = {k: [getattr(n, k) for n in nuclei] for k in Nucleus._fields}
    truth.with_suffix(".json").write_text(json.dumps(columns, separators=(",", ":")))

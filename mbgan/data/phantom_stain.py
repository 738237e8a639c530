"""Stain of the drawn data set: where hematoxylin and eosin settle, and the nuclei that show."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mbgan.data.phantom_cells import CELL, FAR, Cells, Field, Nucleus, measure, outlines, thin
from mbgan.data.phantom_tissue import Site, ramp

REACH = 3.5  # um around a nucleus that belong to its cell at most


def _nucleoli(site: Site, cells: Cells) -> Cells:
    """Return one to three dark spots within each nucleus of the kinds that show them."""
    rng = site.canvas.rng
    hosts = cells[np.isin(cells["kind"], ["large", "purkinje", "neurocytic"])]
    hosts = hosts.repeat(rng.choice([1, 2, 3], len(hosts), p=[0.6, 0.3, 0.1]))
    away, t = 0.5 * np.sqrt(rng.random(len(hosts))), rng.uniform(0, 2 * np.pi, len(hosts))
    hosts["x"] += away * hosts["b"] * np.cos(t)
    hosts["y"] += away * hosts["b"] * np.sin(t)
    size = np.where(hosts["kind"] == "neurocytic", 0.55, 1.25) * rng.uniform(0.6, 1.2, len(hosts))
    hosts["a"], hosts["b"] = size * 1.1, size * 0.9
    return hosts


def _red_cells(site: Site, warp: tuple[Field, Field]) -> Field:
    """Return the cover of red cells, paler in their middle, in vessels that hold blood."""
    c, rng = site.canvas, site.canvas.rng
    n = int(0.09 * site.side**2)
    x, y = rng.uniform(0, site.side, (2, n)).astype(np.float32)
    keep = (c.at(site.blood, x, y) > 1.0) & (c.at(site.glass, x, y) < -3.0)
    cells = np.zeros(int(keep.sum()), CELL)
    cells["x"], cells["y"], cells["angle"] = x[keep], y[keep], rng.uniform(0, np.pi, len(cells))
    cells["a"], cells["b"] = 3.3, rng.uniform(2.2, 3.3, len(cells))  # 6-7 um across in sections
    cells["reach"] = 2.9
    cells = thin(cells)
    first, second, _ = outlines(cells, c.um, 0.5, warp)
    depth = np.minimum(-first, (second - first) / 2 - 0.1)
    return ramp(depth, -0.3, 0.3) * (0.75 + 0.25 * ramp(-depth, -1.6, -0.2))


def stain(site: Site, cells: Cells) -> tuple[Field, Field, list[Nucleus]]:
    """Turn geometry into amounts of stain, and measure what is seen of each nucleus.

    Returns:
        Amounts of hematoxylin and eosin [SIDE, SIDE], natural optical density along the stain's
        vector; the nuclei that show, in pixels of the picture.
    """
    c, habit = site.canvas, site.habit
    fine = 2.0 * c.um  # at 10x nothing is sharper than this
    warp = (
        0.55 * c.noise(2.2) + 0.14 * c.noise(0.5),
        0.55 * c.noise(2.2) + 0.14 * c.noise(0.5),
    )
    first, second, who = outlines(cells, c.um, REACH, warp)
    ridge = np.where(second < FAR, (second - first) / 2, FAR)
    look = np.concatenate([cells, np.zeros(1, CELL)])  # the last stands for "no cell"
    of: dict[str, NDArray[np.float32]] = {k: look[k][who] for k in ("dark", "grain", "rim", "soft")}
    # Clefts open along the lines where cells meet, as wide as the patient's tissue has shrunk.
    sway = c.noise(5.0, 0.15)
    seam = 0.10 + 0.22 * sway * (0.4 + habit.shrinkage)
    depth = np.minimum(-first, ridge - seam)
    cover = ramp(depth / np.maximum(of["soft"], 0.45 * fine), -0.8, 0.8)
    chromatin = 0.65 * c.noise(0.28) + 0.65 * c.noise(0.75, 0.1)
    rim = of["rim"] * np.exp(-(((depth - 0.35) / 0.4) ** 2))
    nuclear = of["dark"] * np.maximum(1 + of["grain"] * chromatin + rim, 0.2)
    spot = np.zeros_like(cover)
    if site.near:  # at 10x nucleoli are smaller than a pixel
        spots, _, _ = outlines(_nucleoli(site, cells), c.um, 0.6, warp)
        spot = ramp(-spots, -0.3, 0.35)

    streaks = ndimage.gaussian_filter(c.streaks(site.flow), 0.26 / c.um)
    streaks /= streaks.std()
    cleft = np.maximum(habit.shrinkage * (0.75 + 0.75 * sway), 0) * 1.1
    cleft = cleft * ramp(-second, -REACH, 1.5 - REACH)
    void = ramp(cleft - ridge, -0.25, 0.25) * ramp(first, 0.0, 0.4)
    pores = ramp(c.noise(2.6, 0.15), 2.2 - site.gape, 2.7 - site.gape)
    void *= 1 - 0.75 * ramp(streaks, 0.6, 1.8)  # threads across
    void = np.maximum(void, pores * ramp(first, 0.4, 1.2) * (site.fibers < 0.4))
    void = ramp(ndimage.gaussian_filter(void, 0.3 / c.um), 0.35, 0.75)  # rounds spikes off
    void = np.maximum(void, ramp(site.void, -0.5 * fine, 0.5 * fine))
    void *= 1 - cover

    body = ramp(1.6 - first, 0.0, 1.4)  # cytoplasm: a thin rim
    neuropil = site.eosin * np.maximum(1 + 0.24 * c.noise(0.9, 0.6) + 0.11 * streaks, 0.15)
    eosin = neuropil + 0.10 * body + site.fibers * np.maximum(0.38 + 0.16 * streaks, 0)
    basophil = 0.07 + 0.13 * body + 0.03 * c.noise(4.0, 0.5)
    x, y = c.grid()
    for bx, by, r in site.bodies:
        d = np.hypot(x - bx + 2 * warp[0], y - by + 2 * warp[1])
        soma = ramp(r - d, -0.6, 0.6)
        eosin += soma * 0.36
        basophil += soma * 0.26
        void *= 1 - soma
    eosin = eosin * (1 - void) * (1 - 0.35 * cover) + (0.12 * chromatin.clip(-1, 1) + 0.12) * cover
    hematoxylin = basophil * (1 - void) * (1 - cover) + cover * (nuclear + 0.9 * spot)

    red = _red_cells(site, warp) * (1 - cover)
    eosin = np.maximum(eosin, red * 1.1)
    mottle = 1 + 0.07 * c.noise(site.side / 4) + 0.05 * c.noise(site.side / 20)
    truth = measure(cells, np.where(cover > 0.5, who, -1), 2.0 if not site.near else 20.0)
    dose = habit.thickness * mottle
    return (
        np.asarray(np.maximum(hematoxylin, 0) * habit.hematoxylin * dose, np.float32),
        np.asarray(np.maximum(eosin, 0) * habit.eosin * dose, np.float32),
        truth,
    )

"""Tissue of the drawn data set: the architecture of each class, and where its cells lie."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from mbgan.data.phantom_cells import (
    CELL,
    SIDE,
    Canvas,
    Cells,
    Field,
    thin,
)

# um per picture pixel. A nucleus of 8 um is 4 px across at 10x and 30 px at 100x.
UM_PER_PIXEL = {"10x": 2.0, "100x": 0.27}


@dataclass(frozen=True)
class Habit:
    """What one patient's tissue and its preparation have in common over all pictures."""

    shrinkage: float  # 0..1, how far cells have drawn apart in processing
    fibrillarity: float  # 0..1, neuropil between the cells
    eosin: float  # uptake relative to the usual
    hematoxylin: float
    thickness: float  # of the section, relative; scales both stains


@dataclass
class Site:
    """One field of view before its cells are drawn; lengths in um, stains in optical density."""

    canvas: Canvas
    habit: Habit
    near: bool  # 100x: a single spot of the architecture fills the view
    flow: Field  # rad, direction of fibers and long nuclei
    void: Field  # um, signed distance into glass or lumen
    blood: Field  # um, signed distance into a lumen that holds red cells
    open: Field  # 0..1, where cells of the sheets may lie
    eosin: Field
    fibers: Field  # 0..1, strength of pink strands
    sheets: list[tuple[str, Field, float]] = field(default_factory=list)  # kind, where, alignment
    placed: list[Cells] = field(default_factory=list)  # win over the sheets
    glass: Field = field(init=False)  # the part of void that is outside the tissue
    gape: float = field(init=False)  # how holed the neuropil is
    wobble: Field = field(init=False)  # makes vessels uneven
    bodies: list[tuple[float, float, float]] = field(default_factory=list)  # Purkinje: x, y, r

    def __post_init__(self) -> None:
        self.glass, self.wobble = self.void, self.canvas.noise(7, 0.05)
        self.gape = self.habit.shrinkage

    @property
    def side(self) -> float:
        """Width of the view, um."""
        return SIDE * self.canvas.um


def ramp(x: Field, low: float, high: float) -> Field:
    """Return a smooth step from 0 at low to 1 at high."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def _edges(site: Site) -> None:
    """Cut the rim of the section, cracks, slits and holes out of the tissue."""
    c, rng, near = site.canvas, site.canvas.rng, site.near
    x, y = c.grid()
    ragged = (c.noise(site.side / 9, 0.25) + 0.3 * c.noise(site.side / 60, 0.3)) * site.side / 28
    if rng.random() < (0.10 if near else 0.45):
        t, offset = rng.uniform(0, 2 * np.pi), site.side * rng.uniform(0.22, 0.5)
        out = (x - site.side / 2) * np.cos(t) + (y - site.side / 2) * np.sin(t) - offset
        np.maximum(site.void, out + ragged, out=site.void)
    for _ in range(rng.poisson(0.15 if near else 0.6)):  # cracks of sectioning
        length, width = site.side * rng.uniform(0.1, 0.5), site.side * rng.uniform(0.006, 0.02)
        _tube(site, length, width, crack=True)
    if not near:
        level = rng.uniform(2.2, 4.2)  # few or no holes
        np.maximum(site.void, (c.noise(14, 0.2) - level) * 10, out=site.void)
        # Shrunken tissue tears along its grain into many small slits (paper, figure 5).
        slits = ndimage.gaussian_filter(c.streaks(site.flow, 12), 1.6)
        slits = slits / slits.std() + 0.7 * c.noise(50, 0.1)
        level = 3.4 - 1.5 * site.habit.shrinkage * rng.uniform(0.4, 1.1)
        np.maximum(site.void, (slits - level) * 4, out=site.void)
    site.glass = site.void.copy()
    site.open *= 1 - ramp(site.void, -2.0, 0.0)


def _tube(site: Site, length: float, radius: float, crack: bool = False) -> None:
    """Lay a crack, or a vessel with wall, lumen, red cells and endothelium, through the site."""
    c, rng = site.canvas, site.canvas.rng
    cx, cy = rng.uniform(0, site.side, 2)
    t, reach = rng.uniform(0, np.pi), length + 2.2 * radius + 16
    i, j = (
        slice(*(np.clip([p - reach, p + reach], 0, site.side) / c.um).astype(int)) for p in (cy, cx)
    )
    x, y = (grid[i, j] for grid in c.grid())
    along = (x - cx) * np.cos(t) + (y - cy) * np.sin(t)
    across = (y - cy) * np.cos(t) - (x - cx) * np.sin(t)
    bend, wave = rng.uniform(0.03, 0.12) * (length + radius), rng.uniform(0.6, 1.6) * (length + 20)
    across = across - bend * np.sin(along / wave * np.pi + rng.uniform(0, 6.3))
    beyond = np.maximum(np.abs(along) - length, 0)
    wobble = (1 + 0.35 * site.wobble[i, j]).clip(0.4, 1.6)
    void = site.void[i, j]
    if crack:
        taper = np.maximum(1 - (along / (length * 1.05)) ** 2, -1)
        np.maximum(void, radius * taper * wobble - np.abs(across) - beyond, out=void)
        return
    d = np.asarray(np.hypot(across, beyond) - radius * wobble, np.float32)
    gy, gx = np.gradient(d)
    wall = 0.8 + 0.10 * radius
    close = np.abs(d) < wall + 3
    site.flow[i, j][close] = np.arctan2(gx, -gy)[close]
    fibers, lumen = site.fibers[i, j], -(d + np.float32(wall * 0.7))
    np.maximum(fibers, 0.9 * ramp(-np.abs(d), -wall - 1.0, -0.3), out=fibers)
    np.maximum(void, lumen, out=void)
    if rng.random() < 0.7:
        np.maximum(site.blood[i, j], lumen, out=site.blood[i, j])
    site.open[i, j] *= ramp(d, 0.5 + wall * 0.3, 2.0 + wall)
    rim = np.zeros((SIDE, SIDE), np.float32)
    rim[i, j] = 0.5 * np.exp(-(((d - 0.8) / 0.9) ** 2))
    site.placed.append(c.scatter("endothelial", rim, site.flow, 4.0))


def _vessels(site: Site, amount: float) -> None:
    rng, side = site.canvas.rng, site.side
    for _ in range(rng.poisson(0.35 * amount if site.near else 4 * amount)):
        _tube(site, rng.uniform(0, 60), rng.uniform(2.8, 6.0))
    if rng.random() < (0.05 if site.near else 0.25) * amount:
        _tube(site, rng.uniform(0, 0.25) * min(side, 300), rng.uniform(9, 22))
    if rng.random() < 0.2 * amount:  # bleeding into the tissue
        pool = site.canvas.noise(20, 0.1) - rng.uniform(1.5, 2.5)
        np.maximum(site.blood, 8 * pool, out=site.blood)
        site.open *= 1 - 0.7 * ramp(pool, -0.1, 0.5)


def _strands(site: Site, scale: float, width: float, amount: float) -> Field:
    """Add a net of pink strands along the zero lines of a random field; return its 0..1 map."""
    c = site.canvas
    ground = c.noise(scale, 0.08)
    gy, gx = np.gradient(ground)
    slope = np.hypot(gx, gy) / c.um + 0.3 / scale
    strength = ramp(c.noise(scale * 0.8), -amount, 1.0 - amount)
    net = ramp(-np.abs(ground) / slope, -width, -width * 0.2) * strength
    on = net > 0.1
    site.flow[on] = np.arctan2(gx, -gy)[on]
    site.fibers = np.maximum(site.fibers, net)
    return net


def _classic(site: Site) -> None:
    """Draw sheets of small blue cells with Homer-Wright rosettes."""
    c, rng = site.canvas, site.canvas.rng
    _vessels(site, 1.0)
    x, y = c.grid()
    for _ in range(rng.poisson(0.4 if site.near else 7)):
        cx, cy = rng.uniform(0, site.side, 2)
        r = np.hypot(x - cx, y - cy) * (1 + 0.12 * c.noise(12))
        core = rng.uniform(6.5, 10)
        site.open *= ramp(r, core - 1, core + 1)
        site.eosin += 0.25 * ramp(-r, -core - 2, -core * 0.3)
        radial = np.arctan2(y - cy, x - cx)
        site.flow = np.where(r < core + 6, radial, site.flow)
        for ring in (core + 2.5, core + 8.5):
            t = np.arange(0, 2 * np.pi, 5.6 / ring) + rng.uniform(0, 1)
            t = t + 0.06 * rng.standard_normal(len(t))
            d = ring + 0.9 * rng.standard_normal(len(t))
            px, py = cx + d * np.cos(t), cy + d * np.sin(t)
            site.placed.append(c.cells("tumor", px, py, np.asarray(radial, np.float32), 2.0))
    loose = ramp(c.noise(45, 0.1), 0.3, 1.8) * rng.uniform(0.2, 1.0)
    site.eosin += 0.15 * loose
    if rng.random() < 0.4:
        net = _strands(site, 60, rng.uniform(3, 9), 0.1)
        site.open *= 1 - 0.9 * net
    site.sheets.append(("tumor", site.open * (1 - 0.85 * loose), 0.25))


def _desmoplastic(site: Site) -> None:
    """Draw cells in files between reticulin-like strands."""
    _vessels(site, 1.2)
    net = _strands(site, 34, 7.5, 0.6)
    net = np.maximum(net, _strands(site, 12, 2.6, 0.1))
    site.sheets.append(("stromal", site.open * ramp(net, 0.3, 0.8) * 0.25, 4.0))
    site.sheets.append(("tumor", site.open * (1 - 0.93 * ramp(net, 0.1, 0.5)), 0.9))


def _nodular(site: Site) -> None:
    """Draw pale islands of small round cells in neuropil, dense cells and strands between."""
    c, rng = site.canvas, site.canvas.rng
    _vessels(site, 0.7)
    x, y = c.grid()
    x, y = x + 6 * c.noise(30), y + 6 * c.noise(30)
    island = np.full((SIDE, SIDE), -1e3, np.float32)
    reach = 90.0
    for cx, cy in rng.uniform(-reach, site.side + reach, (int(5 + (site.side / 95) ** 2 * 1.3), 2)):
        t, r = rng.uniform(0, np.pi), rng.uniform(32, 75)
        u = ((x - cx) * np.cos(t) + (y - cy) * np.sin(t)) / rng.uniform(0.9, 1.35)
        v = (y - cy) * np.cos(t) - (x - cx) * np.sin(t)
        d = r - np.hypot(u, v)
        # Islands that meet stay apart by a dense band.
        island = np.where(d > island, np.minimum(d, np.where(island > -9, -island, 1e3)), island)
    pale = ramp(island, -1.0, 5.0)
    gy, gx = np.gradient(island)
    rim = ramp(-np.abs(island + 5), -4.0, -0.5)
    site.flow = np.where(rim > 0.2, np.arctan2(gx, -gy), site.flow).astype(np.float32)
    site.fibers = np.maximum(site.fibers, rim * ramp(c.noise(25), -0.6, 0.8) * 0.8)
    site.eosin += 0.16 * pale
    sparse = 1 - 0.75 * ramp(c.noise(11, 0.2), -0.3, 1.2)
    site.sheets.append(("neurocytic", site.open * pale * sparse, 0.0))
    site.sheets.append(("stromal", site.open * rim * 0.12, 4.0))
    site.sheets.append(("tumor", site.open * (1 - pale) * (1 - 0.5 * rim), 0.6))


def _large_cell(site: Site) -> None:
    """Draw large, pleomorphic cells with nucleoli, mitoses and apoptotic bodies."""
    c = site.canvas
    _vessels(site, 0.9)
    loose = ramp(c.noise(35, 0.15), 0.4, 1.6)
    site.eosin += 0.10 + 0.15 * loose
    if c.rng.random() < 0.4:  # necrosis: no cells but their debris
        dead = ramp(c.noise(60, 0.1), 0.8, 1.1)
        site.open *= 1 - 0.97 * dead
        site.eosin += 0.15 * dead
        site.sheets.append(("pyknotic", dead * 0.10, 0.0))
    site.sheets.append(("large", site.open * (1 - 0.7 * loose), 0.2))


def _normal(site: Site) -> None:
    """Draw cerebellar cortex: molecular layer, Purkinje cells, granular layer, white matter."""
    c, rng = site.canvas, site.canvas.rng
    _vessels(site, 0.6)
    x, y = c.grid()
    t = rng.uniform(0, 2 * np.pi)
    spot = rng.choice([0.0, -60.0, 90.0], p=[0.45, 0.35, 0.2]) if site.near else 0.0
    spot += rng.uniform(-0.3, 0.3) * site.side
    depth = (x - site.side / 2) * np.cos(t) + (y - site.side / 2) * np.sin(t) + spot
    depth += c.noise(130) * 22 + c.noise(9) * 1.5
    depth = np.asarray(depth, np.float32)  # um above the Purkinje cells
    granular = ramp(-depth, 4, 14) * ramp(depth, -190, -165)
    molecular, white = ramp(depth, 0, 8), ramp(-depth, 170, 200)
    site.gape *= 0.5
    outside = depth - rng.uniform(230, 330)  # beyond the pia
    for beyond in (site.void, site.glass):
        np.maximum(beyond, outside, out=beyond)
    glomeruli = ramp(c.noise(5.0, 0.05), 0.55, 1.1)
    site.eosin += 0.24 * molecular + 0.20 * white + 0.12 * granular
    site.fibers = np.maximum(site.fibers, 0.45 * white)
    site.open *= 1 - ramp(site.void, -2.0, 0.0)
    along = np.argwhere(np.abs(depth - 4) < 4 * c.um)
    for i in rng.permutation(len(along))[:4000]:
        py, px = along[i] * c.um
        if c.at(site.void, px, py) < -6 and all(
            np.hypot(px - bx, py - by) > 38 for bx, by, _ in site.bodies
        ):
            site.bodies.append((float(px), float(py), float(rng.uniform(8.5, 12))))
    for bx, by, r in site.bodies:
        site.open *= ramp(np.asarray(np.hypot(x - bx, y - by), np.float32), r + 0.5, r + 2.5)
    centers = np.array([b[:2] for b in site.bodies], np.float32).reshape(-1, 2)
    site.placed.append(c.cells("purkinje", centers[:, 0], centers[:, 1], site.flow, 0.0))
    site.sheets.append(("granule", site.open * granular * (1 - 0.95 * glomeruli), 0.0))
    site.sheets.append(("glia", site.open * molecular * 0.035, 0.3))
    site.sheets.append(("glia", site.open * white * 0.16, 2.0))


DRAW: dict[str, Callable[[Site], None]] = {
    "normal": _normal,
    "classic": _classic,
    "desmoplastic": _desmoplastic,
    "nodular": _nodular,
    "large_cell": _large_cell,
}
MITOSES = {"large_cell": 0.03, "classic": 0.012, "desmoplastic": 0.008, "nodular": 0.006}


def lay_out(
    rng: np.random.Generator, magnification: str, label: str, habit: Habit
) -> tuple[Site, Cells]:
    """Return the architecture of one field of view, and its cells in order of rank.

    Args:
        rng: source of everything random in this picture.
        magnification: a key of UM_PER_PIXEL.
        label: a key of DRAW, the class.
        habit: what the patient's pictures share.
    """
    canvas = Canvas(rng, UM_PER_PIXEL[magnification] / 2)
    near = magnification == "100x"
    zeros = np.zeros((SIDE, SIDE), np.float32)
    flow = rng.uniform(0, np.pi) + 0.9 * canvas.noise(25 if near else 60, 0.02)
    eosin = zeros + 0.16 + 0.16 * habit.fibrillarity
    site = Site(canvas, habit, near, flow, zeros - 99, zeros - 99, zeros + 1, eosin, zeros.copy())
    _edges(site)
    DRAW[label](site)
    return site, _settle(site, MITOSES.get(label, 0.0))


def _settle(site: Site, mitoses: float) -> Cells:
    """Place the sheets' cells between those that are placed already."""
    c, rng = site.canvas, site.canvas.rng
    crowd = [c.scatter(kind, where, site.flow, align) for kind, where, align in site.sheets]
    loose = np.concatenate([*crowd, np.zeros(0, CELL)])
    rng.shuffle(loose)
    for kind, share in (("mitosis", mitoses), ("pyknotic", mitoses * 1.3)):
        some = (rng.random(len(loose)) < share) & (loose["kind"] != "stromal")
        loose[some] = c.cells(kind, loose["x"][some], loose["y"][some], site.flow, 0.0)
    cells = thin(np.concatenate([*site.placed, loose]))
    return cells[c.at(site.void, cells["x"], cells["y"]) < 0]

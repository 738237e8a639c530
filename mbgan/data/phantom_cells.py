"""Cells of the drawn data set: random fields, placement, moulded outlines, and the truth."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial import cKDTree

Field = NDArray[np.float32]  # [SIDE, SIDE], a map over the canvas
Cells = NDArray[np.void]  # [N] of CELL

SIDE = 512  # canvas pixels a side; pictures are half that, so that edges come out anti-aliased
FAR = 1e3  # canvas pixels; "no cell near"

CELL = np.dtype(
    [
        ("x", "f4"),  # center, um
        ("y", "f4"),
        ("a", "f4"),  # semi-axes, um
        ("b", "f4"),
        ("angle", "f4"),  # of a, rad from x towards y
        ("dark", "f4"),  # as of the same names in Kind, with the spread of single nuclei
        ("grain", "f4"),
        ("rim", "f4"),
        ("soft", "f4"),  # blur of the edge, um: nuclei lie at different depths
        ("reach", "f4"),  # half the distance that it keeps from its like, um
        ("kind", "U12"),
    ]
)


class Kind(NamedTuple):
    """How the nuclei of one kind look; lengths in um."""

    radius: float
    spread: float  # of the radius, log-normal sigma
    aspect: float  # mean of long over short axis
    dark: float  # hematoxylin, natural optical density along the stain vector
    grain: float  # contrast of the chromatin, relative
    rim: float  # extra hematoxylin at the nuclear membrane, relative
    spacing: float  # least distance of centers, in sums of radii; < 1 presses cells together


# Sizes: medulloblastoma nuclei 7-10 um across, large-cell about 1.7 times that, granule cells
# 5-6 um (Ellison 2002, Neuropathol Appl Neurobiol 28:257; Louis et al. 2016, WHO CNS tumours).
KINDS = {
    "tumor": Kind(4.2, 0.16, 1.28, 1.32, 0.28, 0.14, 0.78),
    "large": Kind(6.3, 0.17, 1.22, 1.05, 0.34, 0.30, 0.80),
    "neurocytic": Kind(3.2, 0.10, 1.12, 1.15, 0.24, 0.20, 1.25),
    "granule": Kind(2.8, 0.10, 1.10, 1.65, 0.34, 0.12, 0.96),
    "glia": Kind(2.9, 0.18, 1.35, 1.30, 0.24, 0.18, 1.8),
    "purkinje": Kind(4.6, 0.10, 1.15, 0.50, 0.20, 0.45, 1.8),
    "stromal": Kind(3.1, 0.18, 2.90, 1.45, 0.22, 0.14, 1.1),
    "endothelial": Kind(2.6, 0.15, 2.70, 1.50, 0.20, 0.12, 1.1),
    "mitosis": Kind(2.9, 0.15, 2.20, 2.60, 0.05, 0.00, 1.5),
    "pyknotic": Kind(1.8, 0.25, 1.10, 2.50, 0.05, 0.00, 1.7),
}


class Nucleus(NamedTuple):
    """One nucleus as drawn: the ellipse with the moments of its visible pixels."""

    x: float  # center, px of the picture; the first pixel's center is 0
    y: float
    a: float  # long semi-axis, px
    b: float  # short semi-axis, px
    angle: float  # of the long axis, rad from x towards y (clockwise as seen), in [0, pi)
    area: float  # visible, px^2
    kind: str  # a key of KINDS
    cut: bool  # reaches the picture's border: the ellipse is that of the part inside


@dataclass(frozen=True)
class Canvas:
    """Random maps over one picture: `um` micrometres per canvas pixel, all draws from `rng`."""

    rng: np.random.Generator
    um: float

    def noise(self, scale: float, roughness: float = 0.0) -> Field:
        """Return a Gaussian field of zero mean and unit spread.

        Args:
            scale: correlation length, um.
            roughness: 0 for a smooth field, larger for finer structure on top (power-law tail).
        """
        # Only frequencies that carry something are drawn: smooth fields are cheap.
        top = SIDE // 2 if roughness else min(SIDE // 2, int(0.75 * SIDE * self.um / scale) + 2)
        fx = np.arange(top + 1, dtype=np.float32) * np.float32(scale / self.um / SIDE)
        fy = np.concatenate([fx, -fx[top - 1 : 0 : -1]])[:, None]
        gain = np.exp(-0.5 * (2 * np.pi * fy) ** 2) * np.exp(-0.5 * (2 * np.pi * fx) ** 2)
        if roughness:
            gain += roughness / (1 + 16 * (fy**2 + fx**2))
        gain[0, 0] = 0
        # Uniform draws do: a field sums thousands of them, and they cost a quarter.
        white = self.rng.random((2 * top, 2 * top + 2), dtype=np.float32) - np.float32(0.5)
        spectrum = np.zeros((SIDE, SIDE // 2 + 1), np.complex64)
        rows = np.r_[0 : top + 1, SIDE - top + 1 : SIDE]
        spectrum[rows, : top + 1] = white.view(np.complex64) * gain
        field = fft.irfft2(spectrum, s=(SIDE, SIDE), workers=1)
        return np.asarray(field / (field.std() + 1e-9), dtype=np.float32)

    def streaks(self, angle: Field, reach: int = 6) -> Field:
        """Return fibrous noise along `angle` [rad]: line integral convolution (Cabral 1993)."""
        half = angle[::2, ::2]
        n = SIDE // 2
        white = self.rng.standard_normal((n, n), dtype=np.float32)
        total = white.copy()
        cos, sin, flat = np.cos(half).ravel(), np.sin(half).ravel(), white.ravel()
        for step in (1.4, -1.4):
            y, x = np.indices((n, n), dtype=np.float32)
            for _ in range(reach):
                at = (y.astype(np.int32) % n) * n + x.astype(np.int32) % n
                total += flat[at]
                x += step * cos[at]
                y += step * sin[at]
        wide = ndimage.uniform_filter(total.repeat(2, 0).repeat(2, 1), 2)
        return np.asarray(wide / wide.std(), dtype=np.float32)

    def grid(self) -> tuple[Field, Field]:
        """Return x and y of the canvas pixels, um."""
        y, x = np.indices((SIDE, SIDE), dtype=np.float32) * np.float32(self.um)
        return x, y

    def at(self, field: Field, x: NDArray[np.floating], y: NDArray[np.floating]) -> Field:
        """Return the field's values at points in um; points outside take the nearest edge."""
        i = np.clip((y / self.um).astype(np.intp), 0, SIDE - 1)
        j = np.clip((x / self.um).astype(np.intp), 0, SIDE - 1)
        return field[i, j]

    def cells(self, kind: str, x: Field, y: Field, flow: Field, align: float) -> Cells:
        """Return nuclei of one kind at points in um, their long axes along `flow` by `align`."""
        look, n, rng = KINDS[kind], len(x), self.rng
        out = np.zeros(n, CELL)
        radius = look.radius * np.exp(look.spread * rng.standard_normal(n))
        aspect = 1 + (look.aspect - 1) * rng.gamma(3.0, 1 / 3.0, n)
        turn = rng.vonmises(0, 8 * align, n) / 2 if align else rng.uniform(0, np.pi, n)
        out["x"], out["y"], out["kind"] = x, y, kind
        out["a"], out["b"] = radius * np.sqrt(aspect), radius / np.sqrt(aspect)
        out["reach"] = radius * look.spacing
        out["angle"] = (self.at(flow, x, y) if align else 0) + turn
        out["dark"] = look.dark * np.exp(0.20 * rng.standard_normal(n))
        out["grain"] = look.grain * rng.uniform(0.5, 1.5, n)
        out["rim"] = look.rim * rng.uniform(0.3, 1.7, n)
        out["soft"] = 0.20 + 0.12 * rng.gamma(1.5, 1.0, n)
        return out

    def scatter(self, kind: str, where: Field, flow: Field, align: float) -> Cells:
        """Return candidates with the density of `where` in [0, 1], three times what can stay."""
        margin, pitch = 12.0, KINDS[kind].radius * KINDS[kind].spacing * 1.8
        n = int(3 * ((SIDE * self.um + 2 * margin) / pitch) ** 2)
        x, y = self.rng.uniform(-margin, SIDE * self.um + margin, (2, n)).astype(np.float32)
        keep = self.at(where, x, y) > self.rng.random(n)
        return self.cells(kind, x[keep], y[keep], flow, align)


def thin(cells: Cells) -> Cells:
    """Drop each cell that comes too near to an earlier one (random sequential adsorption)."""
    if len(cells) < 2:
        return cells
    reach = cells["reach"]
    points = np.stack([cells["x"], cells["y"]], 1)
    pairs = cKDTree(points).query_pairs(2 * float(reach.max()), output_type="ndarray")
    gap = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)
    pairs = pairs[gap < reach[pairs[:, 0]] + reach[pairs[:, 1]]]
    early, late = pairs.T  # early < late
    keep, open_ = np.zeros(len(cells), bool), np.ones(len(cells), bool)
    while open_.any():
        # Whoever has no earlier rival left stays, and its later rivals go.
        free = open_.copy()
        free[late] = False
        keep |= free
        open_ &= ~free
        open_[late[free[early]]] = False
        rest = open_[early] & open_[late]
        early, late = early[rest], late[rest]
    return cells[keep]


def outlines(
    cells: Cells, um: float, margin: float, warp: tuple[Field, Field]
) -> tuple[Field, Field, NDArray[np.intp]]:
    """Return signed distances to the nearest and second nearest outline, and who is nearest.

    Where two cells press, both distances agree: half their difference is the distance to the
    line at which the cells mould against one another.

    Args:
        cells: ellipses in um.
        um: micrometres per canvas pixel.
        margin: how far around each cell distances are wanted, um.
        warp: displacement of the plane in um along x and y, which makes ellipses irregular.

    Returns:
        Distances in um, negative inside, `FAR` where no cell is near; indices, -1 for none.
    """
    first = np.full(SIDE * SIDE, FAR, np.float32)
    second, label = first.copy(), np.full(SIDE * SIDE, -1, np.intp)
    halves = np.ceil((cells["a"] * 1.15 + margin) / um / 4).astype(int) * 4
    shares = []
    for half in np.unique(halves):
        who = np.flatnonzero(halves == half)
        c = cells[who]
        col = np.rint(c["x"] / um).astype(np.int32)[:, None, None]
        row = np.rint(c["y"] / um).astype(np.int32)[:, None, None]
        step = np.arange(-half, half + 1, dtype=np.int32)
        i, j = row + step[:, None], col + step  # [N, P, 1], [N, 1, P]
        inside = (i >= 0) & (i < SIDE) & (j >= 0) & (j < SIDE)
        at = i.clip(0, SIDE - 1) * SIDE + j.clip(0, SIDE - 1)  # [N, P, P]
        x, y, a, b, angle = (c[k][:, None, None] for k in ("x", "y", "a", "b", "angle"))
        dx = (j * um).astype(np.float32) - x + warp[0].ravel()[at]
        dy = (i * um).astype(np.float32) - y + warp[1].ravel()[at]
        u = (dx * np.cos(angle) + dy * np.sin(angle)) / a
        v = (dy * np.cos(angle) - dx * np.sin(angle)) / b
        u, v = u * u, v * v
        rho = np.maximum(np.sqrt(u + v), np.float32(1e-4))  # 0 / 0 at the very center
        slope = np.maximum(np.sqrt(u / (a * a) + v / (b * b)), rho / a)
        distance = np.maximum(rho * (rho - 1) / slope, -b)
        near = inside & (distance < margin)
        shares.append((at[near], distance[near], who[near.nonzero()[0]]))
    for at, distance, _ in shares:
        np.minimum.at(first, at, distance)
    for at, distance, who in shares:
        best = distance == first[at]
        label[at[best]] = who[best]
    for at, distance, who in shares:
        rest = label[at] != who
        np.minimum.at(second, at[rest], distance[rest])
    shape = (SIDE, SIDE)
    return first.reshape(shape), second.reshape(shape), label.reshape(shape)


def measure(cells: Cells, label: NDArray[np.intp], least_area: float) -> list[Nucleus]:
    """Return the truth: what can be seen of each nucleus, from the moments of its pixels.

    Args:
        cells: nuclei, for their kinds.
        label: index of the nucleus that shows at each canvas pixel, -1 for none.
        least_area: px^2 below which a remnant counts as hidden and is not listed; neither are
            slivers with a center beyond those of the outermost pixels.
    """
    y, x = np.nonzero(label >= 0)
    who, n = label[y, x], len(cells)
    px, py = (x + 0.5) / 2 - 0.5, (y + 0.5) / 2 - 0.5  # canvas -> picture pixels
    pixels = np.bincount(who, minlength=n)
    count = np.maximum(pixels, 1)
    mx, my = np.bincount(who, px, n) / count, np.bincount(who, py, n) / count
    dx, dy = px - mx[who], py - my[who]
    grain = 1 / 48  # variance of a canvas pixel, 1/2 picture pixel wide
    xx = np.bincount(who, dx * dx, n) / count + grain
    yy = np.bincount(who, dy * dy, n) / count + grain
    xy = np.bincount(who, dx * dy, n) / count
    root = np.hypot((xx - yy) / 2, xy)
    # A filled ellipse has variances a^2 / 4 and b^2 / 4 along its axes.
    a, b = 2 * np.sqrt((xx + yy) / 2 + root), 2 * np.sqrt(np.maximum((xx + yy) / 2 - root, grain))
    angle = np.minimum(np.arctan2(2 * xy, xx - yy) / 2 % np.pi, 3.141)  # still < pi when rounded
    last = SIDE / 2 - 1
    inside = (np.minimum(mx, my) >= 0) & (np.maximum(mx, my) <= last)
    seen = np.flatnonzero((pixels / 4 >= least_area) & inside)
    border = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
    cuts = np.isin(seen, border).tolist()
    numbers = np.stack([mx, my, a, b, angle, pixels / 4], 1)[seen].round(3).T.tolist()
    kinds = cells["kind"][seen].tolist()
    return [Nucleus(*row) for row in zip(*numbers, kinds, cuts, strict=True)]

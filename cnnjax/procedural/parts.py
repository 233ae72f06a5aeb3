"""Pictures out of rounded parts: a table with a row a part, painted by one compiled scan.

Every part is a tapered capsule in a frame of its own (an ellipse when its length is 0) and shaded as a body lit from
one side, so a new part costs a row and no compilation. Each row belongs to a named group such as the ears, which can be
left out, and whose visible share of every pixel can be computed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.procedural.canvas import Canvas

_FIELDS = (
    "x", "y", "cos", "sin", "rx", "ry", "length", "taper", "soft", "fuzz", "alpha",
    "red", "green", "blue", "pattern", "fur", "form", "shade", "keep", "join",
)  # fmt: skip


class Parts:
    """Rows of the table of parts, in painting order. `group` is the number of the group that new rows belong to."""

    def __init__(self) -> None:
        self.rows: list[Array] = []
        self.groups: list[int] = []
        self.group = 0

    def add(
        self, x, y, rx, ry=None, angle=0.0, *, length=0.0, taper=1.0, soft=0.0, fuzz=0.0, alpha=1.0, colour,
        pattern=0.0, fur=0.0, form=0.0, shade=1.0, clip=False, extend=False,
    ) -> None:  # fmt: skip
        """One row, or one for each element of the arrays given.

        Centre (x, y), radii rx along `angle` and ry across; `length` stretches it along `angle`, its radius becoming
        `taper` times as large. soft: width of a faded edge; fuzz: roughness of the edge; alpha: opacity; pattern: how
        much of the second colour's pattern shows; fur: roughness of the tone; form: how round it looks; shade: its
        brightness. clip: only where the part that it lies on is; extend: belongs to that part.
        """
        ry = rx if ry is None else ry
        red, green, blue = colour
        values = (
            x, y, jnp.cos(angle), jnp.sin(angle), rx, ry, length / rx, taper, soft, fuzz, alpha,
            red, green, blue, pattern, fur, form, shade, 1.0 if clip or extend else 0.0, 0.0 if clip else 1.0,
        )  # fmt: skip
        values = jnp.broadcast_arrays(*(jnp.asarray(v, jnp.float32) for v in values))
        rows = jnp.stack([v.reshape(-1) for v in values], axis=-1)
        self.rows.append(rows)
        self.groups += [self.group] * len(rows)

    def limb(self, ax, ay, bx, by, r1, r2, **how) -> None:
        """A part from a to b with radius r1 at a and r2 at b."""
        length = jnp.sqrt((bx - ax) ** 2 + (by - ay) ** 2 + 1e-6)
        self.add(ax, ay, r1, None, jnp.arctan2(by - ay, bx - ax), length=length, taper=r2 / r1, **how)

    def table(self, shown: Float[Array, " groups"]) -> Float[Array, "parts fields"]:
        """All rows. shown: 1 for each group that is painted, 0 for one that is left out."""
        rows = jnp.concatenate(self.rows)
        alpha = _FIELDS.index("alpha")
        return rows.at[:, alpha].multiply(shown[np.asarray(self.groups)])


def paint_parts(image, canvas: Canvas, table, noise, pattern, second, lamp):
    """The table's parts over the image (three (side, side) arrays), shaded as rounded bodies lit from `lamp` (x, y)."""

    def step(carry, row):
        red, green, blue, under = carry
        f = dict(zip(_FIELDS, row, strict=True))
        u, v, radius, cover, under = _cover(f, canvas, noise, under)
        # The surface's normal: (u, v) over the radius, turned back into the animal's frame; the rest points at us.
        nu, nv = u / radius, v / radius
        lu, lv = f["cos"] * lamp[0] + f["sin"] * lamp[1], f["cos"] * lamp[1] - f["sin"] * lamp[0]
        facing = jnp.sqrt(jnp.maximum(1.0 - nu * nu - nv * nv, 0.0))
        light = f["form"] * (0.9 * (lu * nu + lv * nv) + 0.7 * (facing - 0.75))
        shade = f["shade"] * (1.0 + light + f["fur"] * noise[0])
        mix = f["pattern"] * pattern
        red = red + cover * ((f["red"] + mix * (second[0] - f["red"])) * shade - red)
        green = green + cover * ((f["green"] + mix * (second[1] - f["green"])) * shade - green)
        blue = blue + cover * ((f["blue"] + mix * (second[2] - f["blue"])) * shade - blue)
        return (red, green, blue, under), None

    (red, green, blue, _), _ = jax.lax.scan(
        step, (image[0], image[1], image[2], jnp.zeros_like(image[0])), table, unroll=4
    )
    return jnp.stack([red, green, blue])


def _cover(f: dict[str, Array], canvas: Canvas, noise, under):
    """Where one part is: its own coordinates u and v, its radius there, its coverage, and `under` for the next part.

    under: coverage of the part that the row lies on, to which it may be clipped.
    """
    dx, dy = canvas.x - f["x"], canvas.y - f["y"]
    u = (f["cos"] * dx + f["sin"] * dy) / f["rx"]
    v = (f["cos"] * dy - f["sin"] * dx) / f["ry"]
    along = jnp.clip(u / (f["length"] + 1e-3), 0.0, 1.0)
    u = u - along * f["length"]
    radius = 1.0 + (f["taper"] - 1.0) * along
    q = jnp.sqrt(u * u + v * v + 1e-6)
    distance = (q - radius) * jnp.minimum(f["rx"], f["ry"]) + f["fuzz"] * noise[1]
    cover = jnp.clip(0.5 - distance / (canvas.pixel + f["soft"]), 0.0, 1.0) * f["alpha"]
    clipped = (1.0 - f["join"]) * f["keep"]
    cover = cover * (1.0 + clipped * (under - 1.0))
    return u, v, radius, cover, jnp.maximum(under * f["keep"], cover * f["join"])


def visible_shares(
    canvas: Canvas, table: Float[Array, "parts fields"], groups: list[int], count: int, noise
) -> Float[Array, "{count} side side"]:
    """The share of each pixel that shows each of `count` groups, where later rows hide earlier ones; in [0, 1].

    groups: the group of each row. What is left to 1 shows what is behind all parts.
    """
    member = jax.nn.one_hot(jnp.asarray(groups), count)

    def step(carry, row):
        shares, under = carry
        fields, mine = row
        *_, cover, under = _cover(dict(zip(_FIELDS, fields, strict=True)), canvas, noise, under)
        return (shares * (1.0 - cover)[None] + mine[:, None, None] * cover[None], under), None

    empty = jnp.zeros_like(canvas.x)
    (shares, _), _ = jax.lax.scan(step, (jnp.zeros((count, *empty.shape)), empty), (table, member))
    return shares

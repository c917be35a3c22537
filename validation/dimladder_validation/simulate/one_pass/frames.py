"""Exact overlaps as rows of numbers, block by block: the state of the Gram chain, and weights that have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dimladder.errors import SimulationError
from dimladder.problem.data import whole_counts

if TYPE_CHECKING:
    import numpy as np

    from dimladder.problem.update_table import Table


def psd_root(gram: np.ndarray, what: str, scale: float | None = None) -> np.ndarray:
    """Return R with R R^T = gram for a positive semi-definite matrix, columns of negligible weight left out.

    Negligible is what rounding leaves of numbers of size `scale` (default: the largest eigenvalue).

    Raises
    ------
    SimulationError
        If an eigenvalue is negative beyond rounding.
    """
    import numpy as np

    if not len(gram):
        return np.zeros((0, 0))
    values, vectors = np.linalg.eigh(gram)
    size = max(float(values[-1]) if scale is None else scale, 1e-300)
    if values[0] < -1e-9 * max(size, 1.0):
        raise SimulationError(
            f"{what} is not positive semi-definite",
            why=f"its smallest eigenvalue is {values[0]:.3g}",
            hint="no weights have these overlaps: check [initial], target.overlap and data.mean_overlap",
        )
    keep = values > 1e-14 * size
    return vectors[:, keep] * np.sqrt(values[keep])


@dataclass(frozen=True)
class Frame:
    """Rows with given overlaps: ``Gamma^b = [moving; fixed] [moving; fixed]^T`` over the columns of block b.

    Attributes
    ----------
    fixed, moving : arrays (F, N), (P, N)
        In units of sqrt d. In a block with room the fixed rows have numbers in its first r_b columns only.
    columns : int array (blocks + 1,)
        First column of each block.
    ranks : int array (blocks,)
        r_b, the rank of the fixed rows.
    outside : int array (blocks,)
        Coordinates of the block that no column stands for; -1 where the columns are the coordinates.
    """

    fixed: np.ndarray
    moving: np.ndarray
    columns: np.ndarray
    ranks: np.ndarray
    outside: np.ndarray

    @property
    def overlaps(self) -> np.ndarray:
        """Gamma^b, shape (blocks, P + F, P + F)."""
        import numpy as np

        rows = np.vstack([self.moving, self.fixed])
        parts = [rows[:, a:b] for a, b in zip(self.columns, self.columns[1:], strict=False)]
        return np.stack([part @ part.T for part in parts])


def block_sizes(table: Table, d: int) -> np.ndarray:
    """Return the number of coordinates of each block.

    Raises
    ------
    SimulationError
        When the shares of d coordinates are not whole numbers, or the blocks are nodes of a Gauss rule.
    """
    if table.nodes:
        raise SimulationError(
            "the nodes of a Gauss rule are not blocks of coordinates", where="data.spectrum.nodes",
            why="their weights are shares of the dimensions of no finite d",
            hint="simulate with nodes = 0: the levels themselves",
        )  # fmt: skip
    try:
        return whole_counts(table.shares, d)
    except ValueError as error:
        raise SimulationError(
            f"d = {d} coordinates do not fall into these blocks", where="simulation.sizes", why=str(error),
            hint="use multiples of the number of levels, or sizes that every fraction divides into whole numbers",
        ) from None  # fmt: skip


def frame_of(table: Table, d: int) -> Frame:
    """Return the frame of the chain at time 0, in d dimensions.

    Raises
    ------
    SimulationError
        If no weights in d dimensions have these overlaps.
    """
    import numpy as np

    sizes = block_sizes(table, d)
    parts, ranks, outside, widths = [], [], [], []
    for block, (gram, size) in enumerate(zip(table.gram, sizes, strict=True)):
        rows, rank = _rows(gram, table.moving, f"block {block}" if len(sizes) > 1 else "the inputs")
        if table.fixed_noise is not None and table.fixed_noise.any():
            # Teachers that walk soon span all directions that they can.
            free = len(gram) - table.moving - rank
            rows, rank = np.insert(rows, [rank] * free, 0.0, axis=1), rank + free
        used = int(np.abs(rows).any(axis=0).nonzero()[0].max(initial=-1)) + 1
        width = min(rank + table.moving, int(size))
        if used > width:
            where = f"block {block} holds {size} of them and its" if len(sizes) > 1 else "teachers, means and"
            raise SimulationError(
                f"d = {d} is too small for these overlaps", why=f"{where} vectors span {used} directions",
                hint=f"simulate at d >= {used}" if len(sizes) == 1 else "simulate at larger sizes",
            )  # fmt: skip
        parts.append(rows[:, :width])
        ranks.append(rank)
        widths.append(width)
        outside.append(int(size) - width if width == rank + table.moving and size > width else -1)
    both = np.ascontiguousarray(np.hstack(parts))
    k = table.moving
    starts = np.concatenate([[0], np.cumsum(widths)])
    moving, fixed = (np.ascontiguousarray(part) for part in (both[:k], both[k:]))
    return Frame(fixed, moving, *(np.array(v, dtype=np.int64) for v in (starts, ranks, outside)))


def _rows(gram: np.ndarray, moving: int, where: str) -> tuple[np.ndarray, int]:
    """Return rows (P + F, r + P) with these overlaps, the fixed ones in the first r columns, and r."""
    import numpy as np

    q, m, t = gram[:moving, :moving], gram[:moving, moving:], gram[moving:, moving:]
    fixed = psd_root(t, f"the overlap matrix of teachers and means in {where}")
    rank = fixed.shape[1]
    along = np.linalg.lstsq(fixed, m.T, rcond=None)[0].T if rank else np.zeros((moving, 0))
    if not np.allclose(along @ fixed.T, m, rtol=1e-9, atol=1e-12 * np.sqrt(np.trace(q) * np.trace(t))):
        raise SimulationError(
            f"overlaps with teachers or means are not consistent with a singular overlap matrix of these in {where}",
            hint="check [initial], target.overlap and data.mean_overlap",
        )
    rest = psd_root(
        q - along @ along.T, f"the students' overlap across teachers and means in {where}", float(np.trace(q))
    )
    rows = np.zeros((len(gram), rank + moving))
    rows[moving:, :rank] = fixed
    rows[:moving, :rank], rows[:moving, rank : rank + rest.shape[1]] = along, rest
    return rows, rank


def explicit(table: Table, d: int, rng: np.random.Generator) -> Frame:
    """Return weights with the initial overlaps, uniformly among all such: the frame whose columns are coordinates."""
    import numpy as np

    start, sizes = frame_of(table, d), block_sizes(table, d)
    both = []
    for block, size in enumerate(sizes):
        low, high = start.columns[block], start.columns[block + 1]
        basis = np.linalg.qr(rng.standard_normal((int(size), high - low)))[0].T
        both.append(np.vstack([start.moving[:, low:high], start.fixed[:, low:high]]) @ basis)
    rows = np.hstack(both)
    columns = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    moving, fixed = (np.ascontiguousarray(part) for part in (rows[: table.moving], rows[table.moving :]))
    return Frame(fixed, moving, columns, start.ranks, np.full(len(sizes), -1, dtype=np.int64))

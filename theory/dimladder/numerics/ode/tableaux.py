"""Coefficients of the integration methods, packed the way the compiled kernels read them.

Sources: Dormand & Prince 1980 (DP5) and Prince & Dormand 1981 with the error estimate and the interpolant of Hairer,
Nørsett & Wanner, *Solving Ordinary Differential Equations I* (DOP853); Tsitouras 2011 (Tsit5); Steinebach 2023
(Rodas5P).

Every continuous extension is held in one nested form, with theta in [0, 1] the fraction of the step:

    y(t + theta h) = y0 + theta (F0 + (1 - theta) (F1 + theta (F2 + (1 - theta) (F3 + ...)))),   F0 = y1 - y0,

which meets both ends of the step exactly. Tables are arguments of the compiled code, never constants in it: a change
here needs no recompilation, and one compiled step serves all methods of a family.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["METHODS", "NESTED_ROWS", "Method", "method", "nested_basis"]

WIDTH = 16
NESTED_ROWS = 7  # of the interpolant with the highest degree (DOP853); shorter ones are padded with zeros
Table = NDArray[np.float64]


def _table(rows: int, columns: int, entries: dict[tuple[int, int], float]) -> Table:
    out = np.zeros((rows, columns))
    for place, value in entries.items():
        out[place] = value
    return out


def nested_basis(rows: int) -> Table:
    """Return B[r, d], the coefficient of theta^d in the factor that multiplies F_r in the nested form."""
    out = np.zeros((rows, rows + 1))
    factor = np.array([0.0, 1.0])
    for r in range(rows):
        out[r, : len(factor)] = factor
        # The next factor carries one more (1 - theta) after an even row, one more theta after an odd row.
        factor = np.convolve(factor, [1.0, -1.0]) if r % 2 == 0 else np.convolve(factor, [0.0, 1.0])
    return out


def _nested_from_powers(powers: Table) -> Table:
    """Turn b_j(theta) = sum_d powers[j, d] theta^(d+1) into rows D[r, j] of the nested form."""
    rows = powers.shape[1]
    out: Table = np.asarray(np.linalg.solve(nested_basis(rows)[:, 1:].T, powers.T), dtype=np.float64)
    return out


@dataclass(frozen=True)
class Method:
    """One method: its orders, and its coefficients packed for the compiled step.

    ``info`` = (stages, extra stages of the interpolant, rows of the interpolant, kind of error estimate);
    ``control`` = (1/(order of the estimate + 1), beta of the PI controller, least and largest factor of the step,
    safety factor, real stability interval). ``table`` has `WIDTH` columns, see the kernels for its rows.
    """

    name: str
    family: str
    order: int
    dense_order: int
    info: NDArray[np.int64]
    control: Table
    table: Table


def _explicit(
    name: str,
    *,
    a: Table,
    b: Table,
    c: Table,
    error: Table,
    second: Table | None,
    extra: Table | None,
    dense: Table,
    order: int,
    dense_order: int,
    control: list[float],
) -> Method:
    s = len(a)
    blocks = [a, b, c, error, np.zeros((1, 1)) if second is None else second]
    if extra is not None:
        blocks.append(extra)
    blocks.append(dense)
    packed = np.zeros((sum(len(block) for block in blocks), WIDTH))
    row = 0
    for block in blocks:
        packed[row : row + len(block), : block.shape[1]] = block
        row += len(block)
    info = np.array([s, 0 if extra is None else len(extra), 1 + len(dense), 0 if second is None else 1])
    return Method(name, "explicit", order, dense_order, info, np.array(control), packed)


def _dense_with_ends(powers: Table) -> Table:
    """Rows F1, F2, ... of an interpolant given by powers of theta (F0 = y1 - y0 is formed from the states)."""
    return _nested_from_powers(powers)[1:]


_DP5_A = _table(
    6,
    6,
    {
        (1, 0): 1 / 5, (2, 0): 3 / 40, (2, 1): 9 / 40, (3, 0): 44 / 45, (3, 1): -56 / 15, (3, 2): 32 / 9,
        (4, 0): 19372 / 6561, (4, 1): -25360 / 2187, (4, 2): 64448 / 6561, (4, 3): -212 / 729,
        (5, 0): 9017 / 3168, (5, 1): -355 / 33, (5, 2): 46732 / 5247, (5, 3): 49 / 176, (5, 4): -5103 / 18656,
    },
)  # fmt: skip
_DP5_B = np.array([[35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84]])
_DP5_C = np.array([[0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1]])
_DP5_E = np.array([[71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40]])
# Shampine's fourth-order interpolant: y0 + theta (F0 + (1-theta) (F1 + theta (F2 + (1-theta) F3))) with F1 = h f0 - F0,
# F2 = F0 - h f1 - F1; F3 is Hairer's dense-output row.
_DP5_F3 = np.array(
    [
        [
            -12715105075 / 11282082432, 0, 87487479700 / 32700410799, -10690763975 / 1880347072,
            701980252875 / 199316789632, -1453857185 / 822651844, 69997945 / 29380423,
        ]
    ]
)  # fmt: skip

_TSIT5_A = _table(
    6,
    6,
    {
        (1, 0): 0.161, (2, 0): -0.008480655492356989, (2, 1): 0.335480655492357, (3, 0): 2.8971530571054935,
        (3, 1): -6.359448489975075, (3, 2): 4.3622954328695815, (4, 0): 5.325864828439257, (4, 1): -11.748883564062828,
        (4, 2): 7.4955393428898365, (4, 3): -0.09249506636175525, (5, 0): 5.86145544294642, (5, 1): -12.92096931784711,
        (5, 2): 8.159367898576159, (5, 3): -0.071584973281401, (5, 4): -0.028269050394068383,
    },
)  # fmt: skip
_TSIT5_B = np.array(
    [[0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774]]
)
_TSIT5_C = np.array([[0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1]])
_TSIT5_E = np.array(
    [
        [
            -0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995, -0.1447110071732629,
            0.5823571654525552, -0.45808210592918697, 1 / 66,
        ]
    ]
)  # fmt: skip
_TSIT5_POWERS = np.array(
    [
        [1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216],
        [0.0, 0.1317, -0.2234, 0.1017],
        [0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651252793],
        [0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902],
        [0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928],
        [0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661],
        [0.0, 1.5, -4.0, 2.5],
    ]
)

# fmt: off
_DOP853_A = _table(
    12,
    12,
    {
        (1, 0): 0.05260015195876773, (2, 0): 0.0197250569845379, (2, 1): 0.0591751709536137,
        (3, 0): 0.02958758547680685, (3, 2): 0.08876275643042054, (4, 0): 0.2413651341592667,
        (4, 2): -0.8845494793282861, (4, 3): 0.924834003261792, (5, 0): 0.037037037037037035,
        (5, 3): 0.17082860872947386, (5, 4): 0.12546768756682242, (6, 0): 0.037109375, (6, 3): 0.17025221101954405,
        (6, 4): 0.06021653898045596, (6, 5): -0.017578125, (7, 0): 0.03709200011850479, (7, 3): 0.17038392571223998,
        (7, 4): 0.10726203044637328, (7, 5): -0.015319437748624402, (7, 6): 0.008273789163814023,
        (8, 0): 0.6241109587160757, (8, 3): -3.3608926294469414, (8, 4): -0.868219346841726, (8, 5): 27.59209969944671,
        (8, 6): 20.154067550477894, (8, 7): -43.48988418106996, (9, 0): 0.47766253643826434,
        (9, 3): -2.4881146199716677, (9, 4): -0.590290826836843, (9, 5): 21.230051448181193,
        (9, 6): 15.279233632882423, (9, 7): -33.28821096898486, (9, 8): -0.020331201708508627,
        (10, 0): -0.9371424300859873, (10, 3): 5.186372428844064, (10, 4): 1.0914373489967295,
        (10, 5): -8.149787010746927, (10, 6): -18.52006565999696, (10, 7): 22.739487099350505,
        (10, 8): 2.4936055526796523, (10, 9): -3.0467644718982196, (11, 0): 2.273310147516538,
        (11, 3): -10.53449546673725, (11, 4): -2.0008720582248625, (11, 5): -17.9589318631188,
        (11, 6): 27.94888452941996, (11, 7): -2.8589982771350235, (11, 8): -8.87285693353063,
        (11, 9): 12.360567175794303, (11, 10): 0.6433927460157636,
    },
)
_DOP853_B = _table(
    1,
    12,
    {
        (0, 0): 0.054293734116568765, (0, 5): 4.450312892752409, (0, 6): 1.8915178993145003,
        (0, 7): -5.801203960010585, (0, 8): 0.3111643669578199, (0, 9): -0.1521609496625161,
        (0, 10): 0.20136540080403034, (0, 11): 0.04471061572777259,
    },
)
_DOP853_C = _table(
    1,
    16,
    {
        (0, 1): 0.05260015195876773, (0, 2): 0.0789002279381516, (0, 3): 0.1183503419072274,
        (0, 4): 0.2816496580927726, (0, 5): 0.3333333333333333, (0, 6): 0.25, (0, 7): 0.3076923076923077,
        (0, 8): 0.6512820512820513, (0, 9): 0.6, (0, 10): 0.8571428571428571, (0, 11): 1.0, (0, 12): 1.0, (0, 13): 0.1,
        (0, 14): 0.2, (0, 15): 0.7777777777777778,
    },
)
_DOP853_E5 = _table(
    1,
    13,
    {
        (0, 0): 0.01312004499419488, (0, 5): -1.2251564463762044, (0, 6): -0.4957589496572502,
        (0, 7): 1.6643771824549864, (0, 8): -0.35032884874997366, (0, 9): 0.3341791187130175,
        (0, 10): 0.08192320648511571, (0, 11): -0.022355307863886294,
    },
)
_DOP853_E3 = _table(
    1,
    13,
    {
        (0, 0): -0.18980075407240762, (0, 5): 4.450312892752409, (0, 6): 1.8915178993145003,
        (0, 7): -5.801203960010585, (0, 8): -0.4226823213237919, (0, 9): -0.1521609496625161,
        (0, 10): 0.20136540080403034, (0, 11): 0.02265179219836082,
    },
)
_DOP853_EXTRA = _table(
    3,
    16,
    {
        (0, 0): 0.056167502283047954, (0, 6): 0.25350021021662483, (0, 7): -0.2462390374708025,
        (0, 8): -0.12419142326381637, (0, 9): 0.15329179827876568, (0, 10): 0.00820105229563469,
        (0, 11): 0.007567897660545699, (0, 12): -0.008298, (1, 0): 0.03183464816350214, (1, 5): 0.028300909672366776,
        (1, 6): 0.053541988307438566, (1, 7): -0.05492374857139099, (1, 10): -0.00010834732869724932,
        (1, 11): 0.0003825710908356584, (1, 12): -0.00034046500868740456, (1, 13): 0.1413124436746325,
        (2, 0): -0.42889630158379194, (2, 5): -4.697621415361164, (2, 6): 7.683421196062599, (2, 7): 4.06898981839711,
        (2, 8): 0.3567271874552811, (2, 12): -0.0013990241651590145, (2, 13): 2.9475147891527724,
        (2, 14): -9.15095847217987,
    },
)
_DOP853_D = _table(
    4,
    16,
    {
        (0, 0): -8.428938276109013, (0, 5): 0.5667149535193777, (0, 6): -3.0689499459498917, (0, 7): 2.38466765651207,
        (0, 8): 2.117034582445028, (0, 9): -0.871391583777973, (0, 10): 2.2404374302607883,
        (0, 11): 0.6315787787694688, (0, 12): -0.08899033645133331, (0, 13): 18.148505520854727,
        (0, 14): -9.194632392478356, (0, 15): -4.436036387594894, (1, 0): 10.427508642579134,
        (1, 5): 242.28349177525817, (1, 6): 165.20045171727028, (1, 7): -374.5467547226902,
        (1, 8): -22.113666853125306, (1, 9): 7.733432668472264, (1, 10): -30.674084731089398,
        (1, 11): -9.332130526430229, (1, 12): 15.697238121770845, (1, 13): -31.139403219565178,
        (1, 14): -9.35292435884448, (1, 15): 35.81684148639408, (2, 0): 19.985053242002433, (2, 5): -387.0373087493518,
        (2, 6): -189.17813819516758, (2, 7): 527.8081592054236, (2, 8): -11.57390253995963, (2, 9): 6.8812326946963,
        (2, 10): -1.0006050966910838, (2, 11): 0.7777137798053443, (2, 12): -2.778205752353508,
        (2, 13): -60.19669523126412, (2, 14): 84.32040550667716, (2, 15): 11.99229113618279,
        (3, 0): -25.69393346270375, (3, 5): -154.18974869023643, (3, 6): -231.5293791760455, (3, 7): 357.6391179106141,
        (3, 8): 93.40532418362432, (3, 9): -37.45832313645163, (3, 10): 104.0996495089623, (3, 11): 29.8402934266605,
        (3, 12): -43.53345659001114, (3, 13): 96.32455395918828, (3, 14): -39.17726167561544,
        (3, 15): -149.72683625798564,
    },
)

_RODAS5P_A = _table(
    8,
    8,
    {
        (1, 0): 3.0, (2, 0): 2.849394379747939, (2, 1): 0.45842242204463923, (3, 0): -6.954028509809101,
        (3, 1): 2.489845061869568, (3, 2): -10.358996098473584, (4, 0): 2.8029986275628964, (4, 1): 0.5072464736228206,
        (4, 2): -0.3988312541770524, (4, 3): -0.04721187230404641, (5, 0): -7.502846399306121,
        (5, 1): 2.561846144803919, (5, 2): -11.627539656261098, (5, 3): -0.18268767659942256,
        (5, 4): 0.030198172008377946, (6, 0): -7.502846399306121, (6, 1): 2.561846144803919,
        (6, 2): -11.627539656261098, (6, 3): -0.18268767659942256, (6, 4): 0.030198172008377946, (6, 5): 1.0,
        (7, 0): -7.502846399306121, (7, 1): 2.561846144803919, (7, 2): -11.627539656261098,
        (7, 3): -0.18268767659942256, (7, 4): 0.030198172008377946, (7, 5): 1.0, (7, 6): 1.0,
    },
)
_RODAS5P_C = _table(
    8,
    8,
    {
        (1, 0): -14.155112264123755, (2, 0): -17.97296035885952, (2, 1): -2.859693295451294,
        (3, 0): 147.12150275711716, (3, 1): -1.41221402718213, (3, 2): 71.68940251302358, (4, 0): 165.43517024871676,
        (4, 1): -0.4592823456491126, (4, 2): 42.90938336958603, (4, 3): -5.961986721573306, (5, 0): 24.854864614690072,
        (5, 1): -3.0009227002832186, (5, 2): 47.4931110020768, (5, 3): 5.5814197821558125, (5, 4): -0.6610691825249471,
        (6, 0): 30.91273214028599, (6, 1): -3.1208243349937974, (6, 2): 77.79954646070892, (6, 3): 34.28646028294783,
        (6, 4): -19.097331116725623, (6, 5): -28.087943162872662, (7, 0): 37.80277123390563,
        (7, 1): -3.2571969029072276, (7, 2): 112.26918849496327, (7, 3): 66.9347231244047, (7, 4): -40.06618937091002,
        (7, 5): -54.66780262877968, (7, 6): -9.48861652309627,
    },
)
_RODAS5P_DENSE = _table(
    3,
    8,
    {
        (0, 0): 25.948786856663858, (0, 1): -2.5579724845846235, (0, 2): 10.433815404888879,
        (0, 3): -2.3679251022685204, (0, 4): 0.524948541321073, (0, 5): 1.1241088310450404, (0, 6): 0.4272876194431874,
        (0, 7): -0.17202221070155493, (1, 0): -9.91568850695171, (1, 1): -0.9689944594115154,
        (1, 2): 3.0438037242978453, (1, 3): -24.495224566215796, (1, 4): 20.176138334709044, (1, 5): 15.98066361424651,
        (1, 6): -6.789040303419874, (1, 7): -6.710236069923372, (2, 0): 11.419903575922262, (2, 1): 2.8879645146136994,
        (2, 2): 72.92137995996029, (2, 3): 80.12511834622643, (2, 4): -52.072871366152654, (2, 5): -59.78993625266729,
        (2, 6): -0.15582684282751913, (2, 7): 4.883087185713722,
    },
)
# fmt: on
_RODAS5P_C_NODES = np.array(
    [[0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1, 1, 1]]
)
_RODAS5P_D = np.array(
    [[0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069, 0, 0, 0]]
)
_RODAS5P_GAMMA = 0.21193756319429014


def _hermite_rows(b: Table, s: int, width: int) -> Table:
    """F1 = h f0 - F0 and F2 = F0 - h f1 - F1 = 2 F0 - h (f0 + f1), as combinations of the stages (f1 is stage s)."""
    rows = np.zeros((2, width))
    rows[0, : len(b[0])] = -b[0]
    rows[0, 0] += 1.0
    rows[1, : len(b[0])] = 2.0 * b[0]
    rows[1, 0] -= 1.0
    rows[1, s] -= 1.0
    return rows


def _dp5() -> Method:
    dense = np.vstack([_hermite_rows(_DP5_B, 6, 7), _DP5_F3])
    control = [1 / 5, 0.04, 0.2, 10.0, 0.9, 3.3]
    return _explicit(
        "dp5", a=_DP5_A, b=_DP5_B, c=_DP5_C, error=_DP5_E, second=None, extra=None, dense=dense, order=5, dense_order=4,
        control=control,
    )  # fmt: skip


def _tsit5() -> Method:
    control = [1 / 5, 0.0, 0.2, 10.0, 0.9, 3.5]
    return _explicit(
        "tsit5", a=_TSIT5_A, b=_TSIT5_B, c=_TSIT5_C, error=_TSIT5_E, second=None, extra=None,
        dense=_dense_with_ends(_TSIT5_POWERS), order=5, dense_order=4, control=control,
    )  # fmt: skip


def _dop853() -> Method:
    dense = np.vstack([_hermite_rows(_DOP853_B, 12, 16), _DOP853_D])
    control = [1 / 8, 0.0, 0.333, 6.0, 0.9, 6.1]
    return _explicit(
        "dop853", a=_DOP853_A, b=_DOP853_B, c=_DOP853_C, error=_DOP853_E5, second=_DOP853_E3, extra=_DOP853_EXTRA,
        dense=dense, order=8, dense_order=7, control=control,
    )  # fmt: skip


def _rodas5p() -> Method:
    # Rows: a (8), C (8), nodes, d, interpolant (3). The unknowns are u = Gamma k; the last one is the error estimate.
    packed = np.zeros((21, WIDTH))
    # Published as ... k2 + theta k3; the nested form has k2 + k3 - (1 - theta) k3.
    dense = np.array([[1.0, 0, 0], [0, 1, 1], [0, 0, -1]]) @ _RODAS5P_DENSE
    blocks = (_RODAS5P_A, _RODAS5P_C, _RODAS5P_C_NODES, _RODAS5P_D, dense)
    for row, block in zip((0, 8, 16, 17, 18), blocks, strict=True):
        packed[row : row + len(block), :8] = block
    info = np.array([8, 0, 4, 0])
    control = np.array([1 / 5, 0.0, 0.2, 6.0, 0.9, np.inf, _RODAS5P_GAMMA])
    return Method("rodas5p", "rosenbrock", 5, 4, info, control, packed)


def _bdf() -> Method:
    # kappa of Shampine & Reichelt (1997), table 1: numerical differentiation formulas, by order 0..5.
    kappa = np.array([0.0, -0.1850, -1 / 9, -0.0823, -0.0415, 0.0])
    gamma = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 6))])
    packed = np.zeros((8, WIDTH))
    packed[0, :6] = gamma
    packed[1, :6] = (1 - kappa) * gamma
    # Twice the error constants: errors of the steps add up over a solution more than those of one-step methods do.
    packed[2, :6] = 2.0 * (kappa * gamma + 1 / np.arange(1, 7))
    # Newton's form over backward differences, prod_{m<j} (theta - 1 + m)/(m + 1), less its value at theta = 0.
    powers = np.zeros((5, 5))
    polynomial = np.array([1.0])
    for j in range(5):
        polynomial = np.convolve(polynomial, [(j - 1) / (j + 1), 1 / (j + 1)])
        powers[j, : j + 1] = polynomial[1:]
    packed[3:8, 1:6] = _nested_from_powers(powers)
    info = np.array([5, 0, 5, 0])
    return Method("bdf", "bdf", 5, 5, info, np.array([1 / 2, 0.0, 0.2, 10.0, 0.9, np.inf]), packed)


_BUILDERS = {"dp5": _dp5, "tsit5": _tsit5, "dop853": _dop853, "rodas5p": _rodas5p, "bdf": _bdf}
METHODS = tuple(_BUILDERS)


@cache
def method(name: str) -> Method:
    """Return the method called `name`."""
    return _BUILDERS[name]()

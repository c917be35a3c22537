"""Averages of one episode: decisions s = sign(w.x) of a linear student, rewarded or not after all of them.

With r what an episode earns, a sample moves w by psi = -r s in the place of a slope times an error. Decisions are
independent and right with probability p = 1 - acos(rho)/pi, rho the correlation of the fields, and S of them are right:

    r_right = E[r | this one is right] = (reward + penalty) P(S' >= needed - 1) - penalty,    S' of the other ones
    r_wrong = E[r | this one is wrong] = (reward + penalty) P(S' >= needed) - penalty

and s [right] = (s + s*)/2, s [wrong] = (s - s*)/2 with s* = sign(z). By Stein, H = E[d psi/d field] follows from
E[d sign(f)/df] = sqrt(2/(pi E[f^2])).

Source: Patel, Lee, Sarao Mannelli, Goldt & Saxe, Phys. Rev. X 15, 021051 (2025); in this form it is derived here.
"""

from __future__ import annotations

from ...symbolic.equations import Equation

# ``rule``: samples of an episode, right decisions needed, reward, penalty.
EPISODE_SOURCE = '''@njit(**INNER)
def chance(least, count, p):
    """Return P(at least so many of `count` independent decisions are right)."""
    total, weight = 0.0, 1.0
    for right in range(count + 1):
        if right > 0:
            weight *= (count - right + 1.0) / right
        if right >= least:
            total += weight * p ** right * (1.0 - p) ** (count - right)
    return total


@njit(**INNER)
def right_share(C):
    """Return the chance of a right decision."""
    rho = C[0, 1] / math.sqrt(C[0, 0] * C[1, 1])
    return 1.0 - math.acos(min(1.0, max(-1.0, rho))) / math.pi


@njit(**INNER)
def averages(K, M, mu, C, c, y0, sigma, rule, work, G, H, N2, R):
    length, needed, reward, penalty = int(rule[0]), int(rule[1]), rule[2], rule[3]
    p = right_share(C)
    right = (reward + penalty) * chance(needed - 1, length - 1, p) - penalty
    wrong = (reward + penalty) * chance(needed, length - 1, p) - penalty
    H[0, 0] = -0.5 * (right + wrong) * math.sqrt(2.0 / (math.pi * C[0, 0]))
    H[0, 1] = -0.5 * (right - wrong) * math.sqrt(2.0 / (math.pi * C[1, 1]))
    all_right = chance(needed, length, p)
    G[0], R[0] = 0.0, 0.0
    N2[0, 0] = reward * reward * all_right + penalty * penalty * (1.0 - all_right)


@njit(**INNER)
def errors(K, M, mu, C, c, y0, sigma, rule, work, out):
    out[0] = 0.5 * (C[0, 0] + 1.0) - C[0, 1] * math.sqrt(2.0 / (math.pi * C[1, 1]))
    out[1] = 1.0 - right_share(C)
    out[2] = math.nan


@njit(**INNER)
def averages_work_size(K, M):
    return 0


'''


def episode_equations(length: int, needed: int, reward: float, penalty: float) -> list[Equation]:
    """Return the averages of one sample of an episode."""
    both = rf"({reward:g} + {penalty:g})"
    of_w, of_z = r"\sqrt{\frac{2}{\pi C_{1,1}}}", r"\sqrt{\frac{2}{\pi C_{2,2}}}"
    rows = [
        (r"p = 1 - \frac{1}{\pi} \arccos \frac{C_{1,2}}{\sqrt{C_{1,1}\, C_{2,2}}}", "chance of a right decision"),
        (rf"S \sim \mathrm{{Bin}}({length}, p),\quad S' \sim \mathrm{{Bin}}({length - 1}, p)", "of all, of the others"),
        (rf"r_{{+}} = {both}\, \mathbb{{P}}(S' \geq {needed - 1}) - {penalty:g}", "earned if this decision is right"),
        (rf"r_{{-}} = {both}\, \mathbb{{P}}(S' \geq {needed}) - {penalty:g}", "earned if it is wrong"),
        (rf"H_{{1,1}} = \mathbb{{E}}[\partial_{{\lambda}} \psi] = -\tfrac12 (r_{{+}} + r_{{-}})\, {of_w}", ""),
        (rf"H_{{1,2}} = \mathbb{{E}}[\partial_{{z}} \psi] = -\tfrac12 (r_{{+}} - r_{{-}})\, {of_z}", ""),
        (rf"N_{{1,1}} = \mathbb{{E}}[\psi^2] = {reward**2:g}\, \mathbb{{P}}(S \geq {needed})"
         rf" + {penalty**2:g}\, \mathbb{{P}}(S < {needed})", ""),
    ]  # fmt: skip
    labels = ("chance", "decisions right", "earned", "earned", "H", "H", "N")
    return [Equation(label, text, None, note) for label, (text, note) in zip(labels, rows, strict=True)]

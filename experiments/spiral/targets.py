"""The targets of the spiral: what each measure has to be for the story to be true."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from experiments.spiral.measures import TABLE

KNOWN_SHARES = (0.185, 0.471, 0.716, 0.916)
"""1 - MMSE / Var of a perfect network at sigma 1, .5, .3, .15."""
RESTS = (1, 1, 6, 26, 56)
"""Fixed points of a perfect network at sigma .3, .12, .10, .08, .05."""
LEVEL = 0.01
"""p-values of the marginals are judged at this level, all times together (Bonferroni)."""


@dataclass(frozen=True)
class Check:
    """One target: the value, and whether it is met."""

    what: str
    value: str
    target: str
    met: bool


def checks(found: dict[str, Any]) -> list[Check]:
    """Every target of the story, from the metrics."""
    made = []

    def check(what: str, value: str, target: str, met: bool) -> None:
        made.append(Check(what, value, target, bool(met)))

    worst = max(abs(row["std"] / row["closed_form"] - 1) for row in found["forward"])
    check("Noised marginals spread as sqrt(Var + sigma²)", f"{100 * worst:.1f}% off at most", "2%", worst <= 0.02)
    losses = found["eps_loss"]
    above = losses["features"] / losses["floor"] - 1
    check("Loss of eps above the Bayes floor", f"{100 * above:.1f}%", "at most 5%", above <= 0.05)
    shares = found["transition"]
    off = max(abs(a - b) for a, b in zip(shares["exact"], KNOWN_SHARES, strict=True))
    check("Transition, exact denoiser", f"{off:.3f} off at most", "0.03", off <= 0.03)
    off = max(abs(a - b) for a, b in zip(shares["trained"], KNOWN_SHARES, strict=True))
    check("Transition, trained network", f"{off:.3f} off at most", "0.03", off <= 0.03)
    rests = found["attractors"]["exact"]
    check(
        "Attractors of the exact field", ", ".join(map(str, rests)), ", ".join(map(str, RESTS)), tuple(rests) == RESTS
    )

    exact, trained = found["table"]["exact"], found["table"]["features"]
    off = max(abs(exact[n][way]["distance"] - d) for n, (_, _, wanted) in TABLE.items() for way, d in wanted.items())
    check("Six mean distances, exact denoiser", f"{off:.3f} off at most", "0.02", off <= 0.02)
    off = max(abs(trained[n][w]["distance"] - exact[n][w]["distance"]) for n in TABLE for w in exact[n])
    check("Six mean distances, trained beside exact", f"{off:.3f} off at most", "0.05", off <= 0.05)

    for name, rows in found["marginals"].items():
        level = LEVEL / (2 * len(rows))
        right = min(row[way]["p_value"] for row in rows for way in ("SDE", "ODE"))
        wrong = max(row["half the drift"]["p_value"] for row in rows)
        label = "exact denoiser" if name == "exact" else "trained network"
        check(
            f"SDE and ODE have the true marginals, {label}",
            f"smallest p {right:.2f}",
            f"above {level:.4f}",
            right > level,
        )
        check(f"Half the drift is rejected, {label}", f"largest p {wrong:.3f}", "at most 0.01", wrong <= LEVEL)

    rows = {row["scale"]: row for row in found["guidance"]["features"]}
    plain = {row["scale"]: row for row in found["guidance"]["plain"]}
    for name, table in (("Fourier features", rows), ("plain MLP", plain)):
        value = f"{table[3.0]['accuracy']:.1%}, unguided {table[1.0]['accuracy']:.1%}"
        met = table[3.0]["accuracy"] >= 0.95 and table[3.0]["off_class"] <= table[1.0]["off_class"] / 2
        check(f"Accuracy at guidance 3, {name}", value, "95%, half the errors", met)
    alone = [row for row in found["negative"] if row["wanted"] is None]
    worst = max(row["negative"] / row["unguided"] for row in alone)
    check("Share left in the arc that is not wanted", f"{worst:.2f} of the unguided at most", "0.20", worst <= 0.2)
    both = [row for row in found["negative"] if row["wanted"] is not None]
    left, before = (sum(row[name] for row in both) for name in ("negative", "unguided"))
    value = f"{left / len(both):.2%} against {before / len(both):.2%}"
    check("The same with a positive prompt, mean of three", value, "a fifth", left <= before / 5)
    return made


def as_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The checks as plain values."""
    return [asdict(check) for check in checks(found)]

"""Which candidates may be called safe, with one chance of error for the whole search."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

from foldflat.certify.bounds import check_delta
from foldflat.errors import RecipeError

__all__ = ["TestGraph", "bonferroni_graph", "fixed_sequence", "sequences_graph"]

_TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class TestGraph:
    """Say how a chance of error is spent on hypotheses: one starts with a share, and passes it on when it is rejected.

    Source: Bretz, Maurer, Brannath and Posch, "A graphical approach to sequentially rejective multiple test
    procedures", Statistics in Medicine 2009. As used for models: Angelopoulos et al., "Learn then Test", 2021.

    Attributes:
        shares: hypothesis -> share of delta that it starts with; their sum is at most 1.
        passes: hypothesis -> hypothesis -> share of its delta that it passes on; each sum is at most 1.
    """

    __test__ = False  # no test of pytest

    shares: Mapping[str, float]
    passes: Mapping[str, Mapping[str, float]]

    def __post_init__(self) -> None:
        """Raise RecipeError for shares that do not add up."""
        rows = {"the shares": self.shares, **{f"what {name!r} passes on": row for name, row in self.passes.items()}}
        for what, row in rows.items():
            unknown = [name for name in row if name not in self.shares]
            if unknown or min(row.values(), default=0) < 0 or sum(row.values()) > 1 + _TOLERANCE:
                detail = f"names {unknown[0]!r}, no hypothesis" if unknown else f"sums to {sum(row.values()):g}"
                raise RecipeError(f"{what} {detail}\nhint: shares of 0 or more, with a sum of 1 at most")

    def rejected(self, p_value: Callable[[str], float], delta: float) -> list[str]:
        """Return the hypotheses that are rejected, in order; the chance that any of them is true is delta at most.

        Args:
            p_value: of a hypothesis; asked once, and only of one that has a share of delta.
            delta: chance of error of the whole.

        Raises:
            RecipeError: delta outside (0, 1).
        """
        check_delta(delta)
        shares = dict(self.shares)
        passes = {name: dict(self.passes.get(name, {})) for name in shares}
        known: dict[str, float] = {}
        found: list[str] = []
        while name := next((n for n, share in shares.items() if _falls(n, share, p_value, known, delta)), None):
            found.append(name)
            _pass_on(name, shares, passes)
        return found


def _falls(name: str, share: float, p_value: Callable[[str], float], known: dict[str, float], delta: float) -> bool:
    if share <= 0:
        return False
    if name not in known:
        known[name] = p_value(name)
    return known[name] <= share * delta


def _pass_on(name: str, shares: dict[str, float], passes: dict[str, dict[str, float]]) -> None:
    """Remove a hypothesis: its share goes along its edges, and edges that led to it go where its own lead."""
    share, own = shares.pop(name), passes.pop(name)
    for other, part in own.items():
        if other in shares:
            shares[other] += share * part
    for other, row in passes.items():
        through = row.pop(name, 0.0)
        back = through * own.get(other, 0.0)
        if not through or 1 - back <= _TOLERANCE:
            continue
        for target in shares:
            part = row.get(target, 0.0) + through * own.get(target, 0.0)
            if target != other and part:
                row[target] = part / (1 - back)


def fixed_sequence(names: Sequence[str], p_value: Callable[[str], float], delta: float = 0.05) -> list[str]:
    """Return the hypotheses that are rejected when each is tested at delta in turn, up to the first that is not.

    For a nested family, ever smaller models: whatever comes after the first failure is not looked at.

    Args:
        names: in an order that was fixed before the data were seen.
        p_value, delta: see `TestGraph.rejected`.
    """
    return sequences_graph([names]).rejected(p_value, delta)


def sequences_graph(sequences: Sequence[Sequence[str]]) -> TestGraph:
    """Return the graph of several families: each starts with an equal share; one that falls entirely feeds the others.

    Raises:
        RecipeError: no hypothesis, or one twice.
    """
    families = [list(names) for names in sequences if names]
    names = [name for family in families for name in family]
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"the hypotheses are {names}\nhint: at least one, each once")
    shares = dict.fromkeys(names, 0.0)
    passes: dict[str, dict[str, float]] = {}
    for family in families:
        shares[family[0]] = 1 / len(families)
        passes |= {first: {second: 1.0} for first, second in itertools.pairwise(family)}
        others = [other[0] for other in families if other is not family]
        passes[family[-1]] = {other: 1 / len(others) for other in others}
    return TestGraph(shares, passes)


def bonferroni_graph(names: Sequence[str]) -> TestGraph:
    """Return the graph of hypotheses without an order: equal shares, and what falls feeds all others (Holm 1979)."""
    return sequences_graph([[name] for name in names])

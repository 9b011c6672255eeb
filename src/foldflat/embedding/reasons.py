"""Why a search chose what it chose, in plain sentences."""

from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.embedding.search import NEGLIGIBLE, Found, Row

__all__ = ["reason"]

_MORE = "mixed at 1.2 x"


def reason(found: Found, recipe: EmbeddingRecipe) -> str:
    """Say what to use and why, what would be better but cannot be stored, and what more bytes would bring."""
    rows = {row.name: row for row in found.rows}
    winner = rows[found.winner]
    parts = [f"Use {winner.name}: {_why(winner, rows, recipe)}."]
    better = [row for row in rows.values() if row.fits and not row.storable and _is_better(row, winner, recipe)]
    if better:
        best = min(better, key=lambda row: (_lost(row), row.size_bytes or 0))
        parts.append(
            f"Better, but not stored by foldflat, is {best.name}: it loses {_share(_lost(best))} in "
            f"{best.size_bytes:,} bytes."
        )
    more = rows.get(_MORE)
    if more is not None and more.weighted_energy_lost is not None:
        parts.append(f"With 20% more bytes mixed would lose about {_share(_lost(more))}.")
    if found.ended_early:
        parts.append("The search was ended early, so some candidates were not measured.")
    return " ".join(parts)


def _why(winner: Row, rows: dict[str, Row], recipe: EmbeddingRecipe) -> str:
    lost, size = _share(_lost(winner)), f"{winner.size_bytes:,} bytes"
    if recipe.max_error is not None:
        return f"{size} are the fewest that lose at most {_share(recipe.max_error)} (it loses {lost} by weight)"
    within = [row for row in rows.values() if row.fits and row.storable and not row.curve and row.name != winner.name]
    if _lost(winner) <= NEGLIGIBLE:
        return (
            f"it loses {lost} in {size}; below {_share(NEGLIGIBLE)} candidates count as equal, and it is the smallest "
            "of those"
        )
    if not within:
        return f"nothing else fits; it loses {lost} in {size}"
    second = min(within, key=_lost)
    return (
        f"it loses {lost} in {size}, less than any other that fits; next is {second.name} with {_share(_lost(second))}"
    )


def _is_better(row: Row, winner: Row, recipe: EmbeddingRecipe) -> bool:
    if recipe.max_error is not None:
        return (row.size_bytes or 0) < (winner.size_bytes or 0)
    return max(_lost(row), NEGLIGIBLE) < _lost(winner)


def _lost(row: Row) -> float:
    return 1.0 if row.weighted_energy_lost is None else row.weighted_energy_lost


def _share(lost: float) -> str:
    return f"{lost:.3%}" if lost < 0.01 else f"{lost:.1%}"

"""What will be removed from a network: printable, JSON, enough to do it again without calibration data."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from foldflat.errors import FormatVersionError, PlanMismatchError
from foldflat.filters.recipe import FilterRecipe

__all__ = ["PLAN_FORMAT", "FilterPlan", "GroupPlan"]

PLAN_FORMAT = 1


@dataclass
class GroupPlan:
    """Say what becomes of the channels that the same filters make.

    Attributes:
        name: the first layer that makes them.
        producers, consumers: layers that make and that read them.
        size: channels before.
        kept: positions that stay.
        scores: of each channel, as the method measures.
        factors: by what readers multiply the kept channels; empty where by 1.
        total_sensitivity: S, the sum of the scores; None where scores are no sensitivities.
        draws: samples that the epsilon asks for.
        dropped_sensitivity: sum of the scores of what is removed, which bounds the error of the deterministic choice.
        bound_holds: whether the bound is below 1, the least that says anything.
        note: what ties the channels beside sums.
    """

    name: str
    producers: list[str]
    consumers: list[str]
    size: int
    kept: list[int]
    scores: list[float]
    factors: list[float] = field(default_factory=list)
    total_sensitivity: float | None = None
    draws: int = 0
    dropped_sensitivity: float | None = None
    bound_holds: bool = False
    note: str = ""

    @property
    def keep_ratio(self) -> float:
        """Return the part of the channels that stays."""
        return len(self.kept) / self.size


@dataclass
class FilterPlan:
    """Hold a plan for the filters of one network.

    Attributes:
        recipe: what was asked, as JSON values.
        groups: channels of which some are removed, or might have been.
        whole: groups that keep all their channels, with the reason.
        blocked: operations that channels could not be followed through.
        patterns: lists of positions that stay, each used by many tensors.
        axes: by tensor and axis, the number of the pattern.
        scales: by weight, the axis and the factors of what stays of it.
        shifts: by tensor (a bias or a running mean), numbers to add before anything is removed.
        attributes: by module, widths and groups afterwards.
        shapes: by tensor, its shape before.
        sha256: of the weights that the plan was made for.
        refits: by weight, its fit to what stays, in the shape before; in memory only, fitted again when absent.
        sizes_before, sizes_after: parameters, macs and bytes of the whole network.
        epsilon: the error bound of all layers; None where the method has none.
        delta: probability that the bound fails, supported by the calibration data; None as above.
        examples: of the calibration data.
        seconds: time to trace, measure and decide.
        notes: what could not be done as asked.
    """

    recipe: dict[str, Any]
    groups: list[GroupPlan]
    whole: list[dict[str, Any]]
    blocked: list[str]
    patterns: list[list[int]]
    axes: dict[str, dict[str, int]]
    scales: dict[str, dict[str, Any]]
    shifts: dict[str, list[float]]
    attributes: dict[str, dict[str, int]]
    shapes: dict[str, list[int]]
    sha256: str
    sizes_before: dict[str, int]
    sizes_after: dict[str, int]
    epsilon: float | None = None
    delta: float | None = None
    examples: int = 0
    seconds: float = field(default=0.0, compare=False)
    notes: list[str] = field(default_factory=list)
    refits: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def keep_ratio(self) -> float:
        """Return the part of the network that stays, by the recipe's measure."""
        measure = self.recipe["measure"]
        return self.sizes_after[measure] / max(1, self.sizes_before[measure])

    def shapes_after(self) -> dict[str, list[int]]:
        """Return by tensor the shape of those that lose something."""
        found = {}
        for name, axes in self.axes.items():
            shape = list(self.shapes[name])
            for axis, pattern in axes.items():
                shape[int(axis)] = len(self.patterns[pattern])
            found[name] = shape
        return found

    def recipe_object(self) -> FilterRecipe:
        """Return the recipe."""
        return FilterRecipe.from_dict(self.recipe)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        values = asdict(replace(self, refits={}))
        del values["refits"]
        return {"format": PLAN_FORMAT, "family": "filters", **values}

    def to_json(self) -> str:
        """Return the plan as JSON, a line for each group."""
        lines = []
        for key, value in self.to_dict().items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                parts = ",\n  ".join(map(json.dumps, value))
                lines.append(f" {json.dumps(key)}: [\n  {parts}\n ]")
            else:
                lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            FormatVersionError: written by a newer foldflat.
            PlanMismatchError: it is no plan for filters.
        """
        if values.get("family") != "filters":
            raise PlanMismatchError(
                f'the plan is of family {values.get("family")!r}, not "filters"; '
                "hint: foldflat.EmbeddingPlan reads those for tables"
            )
        if values.get("format", 0) > PLAN_FORMAT:
            raise FormatVersionError(
                f"the plan has format {values['format']}, this foldflat reads up to {PLAN_FORMAT}; "
                "hint: upgrade foldflat"
            )
        known = {name: value for name, value in values.items() if name not in ("format", "family", "groups")}
        return cls(groups=[GroupPlan(**group) for group in values["groups"]], **known)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls.from_dict(json.loads(text))

"""What a user asks for the filters of a convolutional network."""

from dataclasses import dataclass
from typing import Any

from foldflat.errors import RecipeError

__all__ = ["ALLOCATIONS", "MEASURES", "METHODS", "VARIANTS", "FilterRecipe"]

MEASURES = ("parameters", "macs", "bytes")
METHODS = ("reconstruction", "pfp", "l1", "l2", "batchnorm", "taylor", "random")
VARIANTS = ("deterministic", "random", "hybrid")
ALLOCATIONS = ("auto", "epsilon", "error", "uniform", "threshold")


@dataclass(frozen=True)
class FilterRecipe:
    """Ask for a network with fewer filters.

    Args:
        keep_ratio: part of the whole network to keep, in (0, 1].
        measure: what is counted: "parameters", "macs" (multiplications of one example) or "bytes" (parameters and
            buffers).
        method: how channels are scored: "reconstruction" (ours: channels go one by one, the one whose loss the others
            make good best first), "pfp" (sensitivities, Liebenwein et al., ICLR 2020), "l1" or "l2" (length of the
            filter), "batchnorm" (scale of the norm behind it), "taylor" (first-order change of the loss against the
            network's own predictions), "random".
        variant: of "pfp": "deterministic" keeps the most sensitive channels, "random" draws them by importance and
            re-weights, "hybrid" keeps for sure what would be drawn anyway and draws the rest.
        allocation: how many channels each layer keeps: "epsilon" (one error bound for all layers; "pfp" only),
            "error" (the least sum of errors for what channels take; "reconstruction" only), "uniform" (the same share
            everywhere), "threshold" (the best over the whole network), "auto": "epsilon" for "pfp", "error" for
            "reconstruction", "uniform" otherwise.
        delta: probability with which the bound may fail; None: the smallest that the calibration data support.
        round_to: channels of a layer stay a multiple of this.
        compensate: add what removed channels give on average to the layers that read them.
        refit: fit the weights that read what stays to the outputs before, by least squares on the calibration data
            (which compensates as well); None: for "reconstruction" only.
        exclude: dotted-name patterns (as in fnmatch) of layers that keep all their filters.
        seed: everything random follows from it.

    Raises:
        RecipeError: a value is out of range or contradicts another.
    """

    keep_ratio: float = 0.5
    measure: str = "parameters"
    method: str = "reconstruction"
    variant: str = "deterministic"
    allocation: str = "auto"
    delta: float | None = None
    round_to: int = 1
    compensate: bool = False
    refit: bool | None = None
    exclude: str | tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ("measure", MEASURES),
            ("method", METHODS),
            ("variant", VARIANTS),
            ("allocation", ALLOCATIONS),
        ):
            if getattr(self, name) not in choices:
                raise RecipeError(
                    f"`{name}` is {getattr(self, name)!r}, which is unknown; hint: choose one of {', '.join(choices)}"
                )
        if not (_is_number(self.keep_ratio) and 0 < self.keep_ratio <= 1):
            raise RecipeError(f"`keep_ratio` is {self.keep_ratio!r}, outside (0, 1]; hint: 0.5 keeps half the network")
        if self.delta is not None and not (_is_number(self.delta) and 0 < self.delta < 1):
            raise RecipeError(f"`delta` is {self.delta!r}, outside (0, 1); it is the probability that the bound fails")
        if not (isinstance(self.round_to, int) and self.round_to >= 1):
            raise RecipeError(f"`round_to` is {self.round_to!r}; hint: give an integer of at least 1")
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**32):
            raise RecipeError(f"`seed` is {self.seed!r}; hint: give an integer in [0, 2^32)")
        self._check_combinations()

    def _check_combinations(self) -> None:
        allocations = {"pfp": ("epsilon", "uniform", "threshold"), "reconstruction": ("error", "uniform", "threshold")}
        fitting = ("auto", *allocations.get(self.method, ("uniform", "threshold")))
        if self.allocation not in fitting:
            raise RecipeError(
                f'`allocation` is "{self.allocation}", which "{self.method}" has nothing for; '
                f"hint: choose one of {', '.join(fitting)}"
            )
        if self.method != "pfp" and (self.variant != "deterministic" or self.delta is not None):
            raise RecipeError(f'`variant` and `delta` are of "pfp"; hint: leave them out for "{self.method}"')
        if self.variant != "deterministic":
            self._check_drawn()

    def _check_drawn(self) -> None:
        for name, clashes, why in (
            ("allocation", self.asked_allocation != "epsilon", "draws by one epsilon"),
            ("round_to", self.round_to > 1, "keeps as many channels as chance wants"),
            ("refit", bool(self.refit), "re-weights what it draws"),
            ("compensate", self.compensate, "makes good on average what it does not draw"),
        ):
            if clashes:
                raise RecipeError(
                    f'`{name}` is {getattr(self, name)!r}, but variant "{self.variant}" {why}; '
                    f'hint: leave `{name}` out, or use variant "deterministic"'
                )

    @property
    def asked_allocation(self) -> str:
        """Return the allocation that holds."""
        if self.allocation == "auto":
            return {"pfp": "epsilon", "reconstruction": "error"}.get(self.method, "uniform")
        return self.allocation

    @property
    def asked_refit(self) -> bool:
        """Return whether weights are fitted again."""
        return self.method == "reconstruction" if self.refit is None else self.refit

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-serialisable values."""
        return {**vars(self), "exclude": [self.exclude] if isinstance(self.exclude, str) else list(self.exclude)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FilterRecipe":
        """Read what `to_dict` wrote."""
        return cls(**{**values, "exclude": tuple(values["exclude"])})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

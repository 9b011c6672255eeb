"""The errors foldflat raises, each also the builtin exception that it means.

    FoldflatError
    ├── RecipeError (ValueError)               a setting is out of range or contradicts another
    │   └── BudgetError                        the budget is below the smallest possible result
    ├── DataError (ValueError)                 weights, rows, labels or calibration data are unusable
    │   └── DivergedError                      training gave NaN or infinity
    ├── UnsupportedModelError (TypeError)      the model has a layer that must not be replaced silently
    ├── NoEmbeddingError (LookupError)         nothing in the model matches the recipe
    ├── DenseWeightError (AttributeError)      a compressed table was asked for the dense weight it no longer has
    ├── PlanMismatchError (ValueError)         a plan was made for other names or shapes
    ├── ModelNotFoundError (FileNotFoundError) the model, folder, file or tensor does not exist
    ├── TargetExistsError (FileExistsError)    the output exists and may not be overwritten
    ├── CheckpointError (OSError)              a folder is damaged, truncated or cannot be written
    │   └── FormatVersionError                 a folder was written by a newer foldflat
    ├── TeamError (ConnectionError)            another process of the same fit stopped
    └── MissingDependencyError (ImportError)   an optional dependency is not installed

Messages say what was given, what was found, the limit, and end with a ``hint:`` line where there is a way out.
"""

__all__ = [
    "BudgetError",
    "CheckpointError",
    "DataError",
    "DenseWeightError",
    "DivergedError",
    "FoldflatError",
    "FormatVersionError",
    "MissingDependencyError",
    "ModelNotFoundError",
    "NoEmbeddingError",
    "PlanMismatchError",
    "RecipeError",
    "TargetExistsError",
    "TeamError",
    "UnsupportedModelError",
]


class FoldflatError(Exception):
    """Catch every error that foldflat raises on purpose."""


class RecipeError(FoldflatError, ValueError):
    """Report a setting that is out of range or contradicts another."""


class BudgetError(RecipeError):
    """Report a budget below the smallest possible result; the message names the smallest."""


class DataError(FoldflatError, ValueError):
    """Report weights, rows, labels or calibration data that cannot be used."""


class DivergedError(DataError):
    """Report that training gave NaN or infinity; the model is not usable any more."""


class UnsupportedModelError(FoldflatError, TypeError):
    """Report a layer that cannot be replaced without changing what the model computes."""


class NoEmbeddingError(FoldflatError, LookupError):
    """Report that nothing in the model matches the recipe."""


class DenseWeightError(FoldflatError, AttributeError):
    """Report that a compressed table has no dense weight; `to_dense()` makes one."""


class PlanMismatchError(FoldflatError, ValueError):
    """Report a plan that was made for other names or shapes."""


class ModelNotFoundError(FoldflatError, FileNotFoundError):
    """Report a model, folder, file or tensor that does not exist."""


class TargetExistsError(FoldflatError, FileExistsError):
    """Report an output that exists and may not be overwritten."""


class CheckpointError(FoldflatError, OSError):
    """Report a folder that is damaged, truncated or cannot be written."""


class FormatVersionError(CheckpointError):
    """Report a folder written by a newer foldflat."""


class TeamError(FoldflatError, ConnectionError):
    """Report that another process of the same fit stopped or did not answer."""


class MissingDependencyError(FoldflatError, ImportError):
    """Report an optional dependency that is not installed; the message names the extra."""

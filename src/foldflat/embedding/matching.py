"""Whether a plan is for the model, or the table, that it is to be applied to."""

from torch import nn

from foldflat.cluster.source import RowSource
from foldflat.embedding.plan import EmbeddingPlan
from foldflat.errors import PlanMismatchError
from foldflat.model.size import tensor_sha256

__all__ = ["check_fits_model", "check_fits_rows"]

_OTHER_WEIGHTS = "table `{}` has other weights than those the plan was made for"


def check_fits_rows(plan: EmbeddingPlan, rows: RowSource) -> list[str]:
    """Compare a plan with a bare table (n, d); return a warning where its weights are not those planned for.

    Raises:
        PlanMismatchError: it has another shape, or the plan is for a model.
    """
    table = plan.tables[0]
    if table.shape != list(rows.shape) or table.names != [""]:
        raise PlanMismatchError(
            f"the plan is for `{table.name}` of shape {table.shape}, not for one of {list(rows.shape)}"
        )
    return [] if tensor_sha256(rows) == table.sha256 else [_OTHER_WEIGHTS.format(table.name)]


def check_fits_model(plan: EmbeddingPlan, model: nn.Module) -> list[str]:
    """Compare a plan with a model; return a warning for every table whose weights are not those planned for.

    Raises:
        PlanMismatchError: a table is missing or has another shape.
    """
    warnings = []
    for table in plan.tables:
        modules = dict(model.named_modules(remove_duplicate=False))
        missing = [name for name in (*table.names, *table.heads) if name not in modules]
        if missing:
            raise PlanMismatchError(f"the plan names `{missing[0]}`, which {type(model).__name__} does not have")
        module = modules[table.names[0]]
        shape = list(module.weight.shape) if isinstance(module, nn.Embedding) else None
        if shape != table.shape:
            raise PlanMismatchError(f"the plan is for `{table.name}` of shape {table.shape}, the model's is {shape}")
        users = {
            name
            for name, user in modules.items()
            if any(parameter is module.weight for parameter in user.parameters(recurse=False))
        }
        if users != {*table.names, *table.heads}:
            raise PlanMismatchError(
                f"the plan is for a table shared by {sorted({*table.names, *table.heads})}, the model's is shared by "
                f"{sorted(users)}; hint: plan again for this model"
            )
        if tensor_sha256(module.weight) != table.sha256:
            warnings.append(_OTHER_WEIGHTS.format(table.name))
    return warnings

"""Read weights files, and refuse one that would leave a compressed table with numbers nobody trained."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from foldflat.errors import CheckpointError, PlanMismatchError
from foldflat.model.hub import WEIGHTS_NAME
from foldflat.model.manifest import manifest_of_file, verify_files

__all__ = ["check_weights_file", "holds_weights", "load_weights"]


def holds_weights(folder: Path) -> bool:
    """Return whether a folder, such as a checkpoint of Trainer, holds the weights of a compressed model."""
    return (folder / WEIGHTS_NAME).is_file()


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill a compressed transformers model in place with the weights of a folder that it was saved to.

    Raises:
        CheckpointError: the file is damaged.
        PlanMismatchError: it holds another model's tensors.
    """
    file = folder / WEIGHTS_NAME
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}); hint: resume from an earlier checkpoint") from error
    own = model.state_dict()
    stored = {own[name].data_ptr() for name in tensors if name in own}
    # a tied tensor is stored under one of its names
    absent = [name for name, tensor in own.items() if name not in tensors and tensor.data_ptr() not in stored]
    strange = [name for name in tensors if name not in own or own[name].shape != tensors[name].shape]
    if absent or strange:
        raise PlanMismatchError(
            f"{file} does not fit this {type(model).__name__}: `{(absent + strange)[0]}` differs\n"
            "hint: compress with the recipe of the run that wrote it, or load that folder with `from_pretrained`"
        )
    model.load_state_dict(tensors, strict=False)


def check_weights_file(file: Path, expected: dict[str, tuple[int, ...]], prefix: str) -> None:
    """Check a file before transformers reads it: transformers fills what it does not find with random numbers.

    Args:
        file: the weights; where foldflat.json lists it, its checksum has to agree.
        expected: shapes of the tensors of the compressed tables by name.
        prefix: what names begin with where the file or the model has a head and the other has none.

    Raises:
        CheckpointError: the file is damaged, altered, or holds other tensors.
    """
    listed = manifest_of_file(file)
    if listed is not None:
        verify_files(*listed)
    try:
        with safe_open(file, "pt") as stream:
            shapes = {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}); hint: copy the folder again") from error
    for name, shape in expected.items():
        variants = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
        found = next((shapes[variant] for variant in variants if variant in shapes), None)
        if found != shape:
            raise CheckpointError(
                f"{file} {'lacks' if found is None else f'holds {list(found)} as'} `{name}`, which its config.json "
                f"says has shape {list(shape)}; hint: copy the folder again"
            )

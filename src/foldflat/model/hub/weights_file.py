"""Refuse a weights file that would leave a compressed table with numbers nobody trained."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from foldflat.errors import CheckpointError
from foldflat.model.manifest import manifest_of_file, verify_files

__all__ = ["check_weights_file"]


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

"""Certify a compressed folder against its original."""

import os
from pathlib import Path
from typing import Any, Protocol

from foldflat.errors import DataError, ModelNotFoundError
from foldflat.model.size import state_sha256
from foldflat.workflow.certificates.files import keep_certificate
from foldflat.workflow.certificates.origin import require_origin
from foldflat.workflow.certificates.promise import Examples, Promise
from foldflat.workflow.certificates.testing import Family, Original, certificate, run_test

__all__ = ["certify_folder"]


class Data(Protocol):
    """Say what two models are compared on: `TaskData`, `ImageData` or `SentenceData`."""

    def open(self, original: str, compressed: str) -> tuple[Any, Any, Examples]:
        """Return both models, and the examples."""


def certify_folder(
    original: str,
    compressed: str | os.PathLike[str],
    data: Data,
    promise: Promise,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Test whether a compressed model's risk is below a limit; keep the certificate in its folder if it is.

    Examples that stand twice count once, and the price of having used some before is paid: see `run_test`.

    Args:
        original: folder or hub name of the model before compression.
        compressed: folder of the one after it.
        data: what they are compared on.
        promise: what is to be shown.
        progress: show bars.

    Returns:
        The certificate: `promised`, `risk`, `limit`, `confidence`, `examples`, `mean`, `bound`, `p_value`, `delta` that
        was left after `earlier_uses`, `examples_needed`, fingerprints, `words`.

    Raises:
        RecipeError: a risk that such examples do not have.
        DataError: too few examples for any promise; a model of another original, or the original itself; models of
            other labels or vocabularies; outputs that are not finite.
    """
    place = Path(compressed).expanduser()
    if not place.is_dir():
        raise ModelNotFoundError(f"{place} is no folder\nhint: the certificate is kept in the folder of the model")
    before, after, examples = data.open(original, str(place))
    first, second = (state_sha256(model.state_dict()) for model in (before, after))
    if first == second:
        raise DataError(f"{original!r} and {str(place)!r} are the same model\nhint: nothing is to be certified")
    require_origin(before, place, original)
    compared = Original(original, before, first)
    outcome = run_test(compared, Family(["compressed"], lambda _: after, second), examples, promise, progress=progress)
    made = certificate(compared, examples, promise, outcome)
    if made["promised"]:
        keep_certificate(place, made)
    return made

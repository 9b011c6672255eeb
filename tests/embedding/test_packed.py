"""Check the packed classes of rows, which the layers of integer codes have in common."""

import pytest
import torch

from foldflat.embedding.packed import PackedEmbedding, packed_labels
from foldflat.embedding.quantized import QuantizedSubspaceEmbedding


@pytest.mark.parametrize(("n_classes", "size"), [(1, 0), (2, 2), (3, 3), (16, 5), (17, 10)])
def test_ten_labels_take_the_bytes_of_their_bits(n_classes: int, size: int) -> None:
    """Bits of a label are rounded up to a power of two, bytes of all to a whole one."""
    packed = packed_labels(torch.arange(10) % n_classes, n_classes)
    assert packed.shape == (size,)
    assert packed.dtype == torch.uint8


def test_labels_of_any_number_of_classes_are_digits_and_come_back() -> None:
    """For 1 to 256 classes: the bytes are one number in base 2^bits, the first label its lowest digit."""
    for n_classes in range(1, 257):
        labels = torch.randint(n_classes, (37,), generator=torch.Generator().manual_seed(n_classes))
        bits = next(bits for bits in (0, 1, 2, 4, 8) if n_classes <= 2**bits)
        stored = int.from_bytes(bytes(packed_labels(labels, n_classes).tolist()), "little")
        assert stored == sum(label << (bits * i) for i, label in enumerate(labels.tolist()))
        sizes = torch.bincount(labels, minlength=n_classes).tolist()
        layer: PackedEmbedding = QuantizedSubspaceEmbedding(37, 4, sizes, [1] * n_classes, bits=8)
        layer.set_labels(labels)
        assert torch.equal(layer.assignment.long(), labels)
        places = [labels[:i].tolist().count(label) for i, label in enumerate(labels.tolist())]
        assert layer.position.tolist() == places

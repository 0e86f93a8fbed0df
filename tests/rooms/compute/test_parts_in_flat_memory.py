"""Boxes of a part of a tensor: what lies in flat memory, under the indices that it has in the tensor."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from datahall.compute.execute_flat_pieces import FlatPiece, Place, boxes_of

SIZES = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@given(sizes=SIZES, data=st.data())
def test_boxes_are_the_elements_of_the_part_in_order(sizes, data):
    numbers = torch.arange(torch.Size(sizes).numel()).view(sizes)
    start = data.draw(st.integers(0, numbers.numel()))
    stop = data.draw(st.integers(start, numbers.numel()))
    found = []
    for box in boxes_of(sizes, start, stop):
        assert box.before == len(found)
        inside = tuple(slice(at, at + size) for at, size in zip(box.offsets, box.sizes, strict=True))
        found += numbers[inside].flatten().tolist()
    assert found == list(range(start, stop))


def test_a_part_of_a_cut_tensor_lies_where_the_piece_does():
    memory = torch.arange(5.0)
    part = FlatPiece(memory, Place((6, 4), (0, 2), (6, 2), written=True, start=3))
    boxes = {tuple(chunk.offsets): tuple(chunk.sizes) for chunk in part.__create_chunk_list__()}
    assert part.shape == (6, 4)
    assert boxes == {(1, 3): (1, 1), (2, 2): (2, 2)}
    items = part.__create_write_items__("moments", part)
    assert [part.__get_tensor_shard__(item.index).tolist() for item in items] == [[[0.0]], [[1.0, 2.0], [3.0, 4.0]]]


def test_what_another_worker_writes_is_read_here_too():
    part = FlatPiece(torch.zeros(2), Place((4,), (0,), (4,), written=False))
    assert not part.__create_write_items__("moments", part)
    assert len(part.__create_chunk_list__()) == 1

import pytest
import torch

from lightning_nas.errors import SpaceError
from lightning_nas.nn.complexity import count_parameters
from lightning_nas.spaces.natsbench_size import WIDTHS, NATSBenchSize

SPACE = NATSBenchSize()


def test_the_order_is_lexicographic():
    assert SPACE.format(SPACE[0]) == "8:8:8:8:8"
    assert SPACE.format(SPACE[1]) == "8:8:8:8:16"
    assert SPACE.format(SPACE[-1]) == "64:64:64:64:64"
    assert len(SPACE) == 8**5
    for index in (0, 11, 284, 32767):
        assert SPACE.index(SPACE.parse(SPACE.format(SPACE[index]))) == index
    assert torch.equal(SPACE.representatives, torch.arange(len(SPACE)))


@pytest.mark.parametrize("text", ["8:8:8:8", "8:8:8:8:9", "8|8|8|8|8", "", "8:8:8:8:8:8"])
def test_other_notations_are_refused(text):
    with pytest.raises(SpaceError, match="natsbench_size"):
        SPACE.parse(text)


def test_graphs_are_chains_and_come_back():
    graphs = SPACE.all_graphs()
    assert graphs.ops.shape == (32768, 7)
    for index in (0, 284, 32767):
        graph = SPACE.graph(SPACE[index])
        assert graph.adjacency.nonzero().tolist() == [[v, v + 1] for v in range(6)]
        assert torch.equal(graphs.ops[index], graph.ops)
        assert torch.equal(graphs.adjacency[index], graph.adjacency)
        assert SPACE.from_graph(graph) == SPACE[index]
    cut = graph.adjacency.clone()
    cut[2, 3] = False
    for other in (graph._replace(adjacency=cut), graph._replace(ops=graph.ops.flip(0))):
        with pytest.raises(SpaceError, match="expected a chain"):
            SPACE.from_graph(other)


def test_a_wider_network_is_larger():
    sizes = [count_parameters(SPACE.build(SPACE.parse(f"8:8:{width}:8:8"))) for width in WIDTHS]
    assert sizes == sorted(set(sizes))

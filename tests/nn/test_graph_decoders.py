import torch

from lightning_nas.nn.graph_decoders import JointDecoder


def test_labels_first_then_arcs_row_by_row():
    decoder = JointDecoder(num_vertices=4, latent_dim=2, num_ops=3, hidden_dim=5)
    torch.manual_seed(0)
    z = torch.randn(6, 4, 2)
    ops, adjacency = decoder(z)
    flat = decoder.body(z.flatten(1))
    assert torch.equal(ops, flat[:, :12].reshape(6, 4, 3))
    row, column = zip((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), strict=True)
    assert torch.equal(adjacency[:, row, column], flat[:, 12:])
    assert adjacency.tril().abs().sum() == 0


def test_equal_latent_vectors_can_be_told_apart():
    torch.manual_seed(0)
    ops, adjacency = JointDecoder(4, 2, 3)(torch.ones(1, 4, 2))
    assert not torch.allclose(ops[0, 1], ops[0, 2])
    assert adjacency[0, 0, 1] != adjacency[0, 2, 3]


def test_the_places_of_arcs_are_no_part_of_a_checkpoint():
    assert all(name.startswith("body.") for name in JointDecoder(4, 2, 3).state_dict())

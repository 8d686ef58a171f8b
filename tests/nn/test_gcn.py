import numpy as np
import pytest
import torch

from lightning_nas.nn.gcn import GCNEncoder, GraphConvolution, normalised_adjacency


@pytest.fixture
def adjacency():
    """Three graphs of five vertices; vertex 4 of the first has no arc."""
    arcs = (torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.6).triu(1).float()
    arcs[0, :, 4] = 0
    return arcs + arcs.mT


@pytest.mark.parametrize("self_loops", [True, False])
def test_normalisation_against_matrices(adjacency, self_loops):
    for ours, arcs in zip(normalised_adjacency(adjacency, self_loops), adjacency.double().numpy(), strict=True):
        matrix = arcs + np.eye(5) * self_loops
        degrees = matrix.sum(1)
        root = np.diag([d**-0.5 if d else 0.0 for d in degrees])
        np.testing.assert_allclose(ours, root @ matrix @ root, rtol=1e-5, atol=1e-7)


def test_a_vertex_without_arcs_hears_nothing_but_itself(adjacency):
    assert normalised_adjacency(adjacency, self_loops=False)[0, 4].tolist() == [0] * 5
    assert normalised_adjacency(adjacency, self_loops=True)[0, 4].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, lambda heard, bias: np.maximum(heard + bias, 0)),
        ({"mode": "reference"}, lambda heard, bias: np.maximum(heard, 0) + bias),
        ({"activate": False}, lambda heard, bias: heard + bias),
    ],
)
def test_layer_against_numpy(adjacency, arguments, expected):
    torch.manual_seed(0)
    layer = GraphConvolution(4, 6, **arguments)
    features, norm = torch.randn(3, 5, 4), normalised_adjacency(adjacency, self_loops=True)
    weight, bias = (part.detach().numpy() for part in (layer.linear.weight, layer.linear.bias))
    heard = norm.numpy() @ features.numpy() @ weight.T
    np.testing.assert_allclose(layer(features, norm).detach().numpy(), expected(heard, bias), rtol=1e-4, atol=1e-6)


def test_encoder_is_its_layers(adjacency):
    torch.manual_seed(0)
    encoder = GCNEncoder(4, hidden_dim=6, num_layers=3)
    features, norm = torch.randn(3, 5, 4), normalised_adjacency(adjacency, self_loops=True)
    expected = features
    for layer in encoder.convolutions:
        expected = layer(expected, norm)
    assert len(encoder.convolutions) == 3
    assert encoder(features, norm).shape == (3, 5, 6)
    assert torch.equal(encoder(features, norm), expected)

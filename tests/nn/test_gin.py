import numpy as np
import pytest
import torch

from lightning_nas.nn.gin import GINEncoder, VertexBatchNorm


def oracle(encoder, features, adjacency):
    """Vertex by vertex, neighbour by neighbour, in float64, with running statistics."""

    def norm(x, layer):
        mean, var = layer.running_mean.double().numpy(), layer.running_var.double().numpy()
        return (x - mean) / np.sqrt(var + layer.eps) * array(layer.weight) + array(layer.bias)

    def array(parameter):
        return parameter.detach().double().numpy()

    hidden = features.double().numpy()
    for convolution, outer in zip(encoder.convolutions, encoder.norms, strict=True):
        first, inner, _, second = convolution.nn
        result = np.zeros((*hidden.shape[:2], len(array(second.bias))))
        for b in range(len(hidden)):
            for v in range(hidden.shape[1]):
                heard = (1 + float(convolution.eps)) * hidden[b, v]
                for u in range(hidden.shape[1]):
                    heard = heard + float(adjacency[b, v, u]) * hidden[b, u]
                x = norm(array(first.weight) @ heard + array(first.bias), inner)
                x = array(second.weight) @ np.maximum(x, 0) + array(second.bias)
                result[b, v] = np.maximum(norm(x, outer), 0)
        hidden = result
    return hidden


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(5, 6, 4, generator=generator)
    arcs = (torch.rand(5, 6, 6, generator=generator) < 0.4).triu(1).float()
    return features, arcs + arcs.mT


@pytest.mark.parametrize("num_layers", [1, 3])
def test_encoder_against_loops(batch, num_layers):
    torch.manual_seed(1)
    encoder = GINEncoder(4, hidden_dim=7, num_layers=num_layers)
    with torch.no_grad():
        for convolution in encoder.convolutions:
            convolution.eps.fill_(0.3)
        for _ in range(5):
            encoder(*batch)  # running statistics worth the name
        ours = encoder.eval()(*batch)
    assert ours.shape == (5, 6, 7)
    assert ours.std() > 0.01
    np.testing.assert_allclose(ours.numpy(), oracle(encoder, *batch), rtol=1e-3, atol=1e-5)


def test_a_vertex_hears_as_far_as_there_are_layers():
    line = torch.diag(torch.ones(5), 1)
    line = (line + line.T)[None]
    torch.manual_seed(0)
    encoder = GINEncoder(2, hidden_dim=16, num_layers=3).eval()
    features = torch.zeros(1, 6, 2, requires_grad=True)
    encoder(features + 0.1, line)[0, 0].sum().backward()
    reached = features.grad[0].abs().sum(dim=1) > 0
    assert reached.tolist() == [True] * 4 + [False] * 2


def test_batch_normalisation_runs_over_all_vertices_of_all_graphs():
    x = torch.randn(9, 6, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2
    ours = VertexBatchNorm(3)(x)
    mean, std = x.numpy().reshape(-1, 3).mean(0), x.numpy().reshape(-1, 3).std(0)
    np.testing.assert_allclose(ours.detach().numpy(), (x.numpy() - mean) / std, rtol=1e-3, atol=1e-4)


def test_graphs_of_a_batch_do_not_hear_each_other(batch):
    torch.manual_seed(0)
    encoder = GINEncoder(4, hidden_dim=8, num_layers=2).eval()
    features, adjacency = batch
    torch.testing.assert_close(encoder(features, adjacency)[2:3], encoder(features[2:3], adjacency[2:3]))


def test_the_weight_of_the_own_vertex_is_learned():
    assert {f"convolutions.{i}.eps" for i in range(3)} <= {name for name, _ in GINEncoder(2, 4, 3).named_parameters()}

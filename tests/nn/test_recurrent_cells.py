import numpy as np
import pytest
import torch

from lightning_nas.nn.recurrent_cells import Dropped, LanguageModels, levels
from lightning_nas.spaces.recurrent_cell import NAO_PTB, RecurrentCell


def random_cells(count, nodes=11, seed=0):
    rng = np.random.default_rng(seed)
    space = RecurrentCell(nodes)
    return torch.tensor([space.sample(rng) for _ in range(count)])


def plain_outputs(models, place, tokens, gated=True):
    """One cell, node by node, in NumPy, as NAO's published equations have it."""
    cell = models.cells[place].tolist()
    first, matrices, embedding = (
        p[place].detach().double().numpy() for p in (models.first, models.matrices, models.embedding)
    )
    acts = (np.tanh, lambda x: np.maximum(x, 0), lambda x: x, lambda x: 1 / (1 + np.exp(-x)))
    width, state = models.width, np.zeros((tokens.shape[1], models.width))

    def step(state, values, act):
        if not gated:
            return act(values)
        gate = 1 / (1 + np.exp(-values[:, :width]))
        return state + gate * (act(values[:, width:]) - state)

    found = []
    for row in tokens.numpy():
        nodes = [step(state, np.concatenate([embedding[row], state], axis=1) @ first, np.tanh)]
        for number in range(models.nodes):
            source, act = cell[2 * number], acts[cell[2 * number + 1]]
            nodes.append(step(nodes[source], nodes[source] @ matrices[number], act))
        state = np.mean(nodes[1:], axis=0)
        found.append(state)
    return np.stack(found)


@pytest.mark.parametrize("gated", [True, False])
def test_cells_side_by_side_are_the_published_equations(gated):
    cells = torch.cat([torch.tensor([NAO_PTB]), random_cells(4)])
    models = LanguageModels(cells, 13, 6, init_range=0.8, gated=gated)
    tokens = torch.randint(13, (5, 3), generator=torch.Generator().manual_seed(0))
    outputs, state = models.run(tokens, models.initial_state(3))
    for place in range(5):
        expected = plain_outputs(models, place, tokens, gated)
        np.testing.assert_allclose(outputs[place].detach(), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(state, outputs[:, -1])
    logits, _ = models(tokens)
    torch.testing.assert_close(logits, torch.einsum("ntbh,nvh->ntbv", outputs, models.embedding))


def test_the_published_size():
    """27 million weights at width 850 with 10,000 words."""
    width, words = 850, 10_000
    small = LanguageModels(torch.tensor([NAO_PTB]), 10, 4)
    assert sum(p.numel() for p in small.parameters()) == (8 + 11 * 4) * 8 + 10 * 5
    assert (2 * width + 11 * width) * 2 * width + words * (width + 1) == pytest.approx(27.3e6, rel=0.005)


def test_levels_hold_every_node_once_behind_its_predecessor():
    cells = random_cells(7)
    found = levels(cells)
    assert sorted(row for level in found for row in level.weight.tolist()) == list(range(77))
    depth = {}
    for number, level in enumerate(found):
        for row, (cell, weight) in enumerate(zip(level.cell.tolist(), level.weight.tolist(), strict=True)):
            node = weight - 11 * cell
            source = int(cells[cell, 2 * node])
            depth[cell, node + 1] = number, row
            if source:
                assert depth[cell, source] == (number - 1, int(level.parent[row]))
            else:
                assert int(level.parent[row]) == cell
        assert sum(level.counts) == len(level.cell)


def test_dropout_leaves_out_what_its_masks_say():
    models = LanguageModels(random_cells(2), 9, 5, init_range=0.5)
    tokens = torch.randint(9, (4, 3))
    nothing = Dropped(torch.ones(9), torch.ones(3, 5), torch.ones(3, 5), None)
    state = torch.rand(2, 3, 5)
    plain, _ = models.run(tokens, state)
    torch.testing.assert_close(models.run(tokens, state, nothing)[0], plain)
    words = torch.ones(9)
    words[tokens[1, 0]] = 0.0
    changed, _ = models.run(tokens, state, nothing._replace(words=words))
    first = int((tokens == tokens[1, 0]).any(dim=1).nonzero()[0])
    torch.testing.assert_close(changed[:, :first], plain[:, :first])
    assert not torch.equal(changed[:, 1], plain[:, 1])
    hidden = torch.ones(3, 5)
    hidden[0] = 0.0
    forgetful, _ = models.run(tokens, state, nothing._replace(hidden=hidden))
    blank, _ = models.run(tokens, torch.zeros_like(state))
    torch.testing.assert_close(forgetful[:, 0, 0], blank[:, 0, 0])
    torch.testing.assert_close(forgetful[:, :, 1:], plain[:, :, 1:])

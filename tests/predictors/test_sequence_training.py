import pytest
import torch
from torch import nn

from lightning_nas.errors import UsageError
from lightning_nas.predictors.sequence_training import Autoencoder, SequenceTraining, seeded


def test_every_epoch_sees_every_architecture_once_in_another_order():
    seen = []

    def loss(places):
        seen.append(places.tolist())
        return layer.weight.square().sum()

    layer = nn.Linear(2, 2)
    SequenceTraining(num_epochs=3, batch_size=4).run(layer, 10, loss, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in seen] == [4, 4, 2] * 3
    epochs = [sum(seen[start : start + 3], start=[]) for start in (0, 3, 6)]  # noqa: RUF017  # three short lists
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_step_is_one_of_adam_with_a_clipped_gradient():
    layer, other = nn.Linear(3, 1), nn.Linear(3, 1)
    other.load_state_dict(layer.state_dict())
    X, y = torch.randn(6, 3), 100 * torch.ones(6, 1)
    training = SequenceTraining(num_epochs=2, batch_size=6, learning_rate=0.1, weight_decay=0.01, clip=0.5)
    training.run(layer, 6, lambda places: (layer(X[places]) - y[places]).square().mean(), torch.Generator())
    optimizer = torch.optim.Adam(other.parameters(), lr=0.1, weight_decay=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (other(X) - y).square().mean().backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimizer.step()
    torch.testing.assert_close(layer.weight, other.weight)


def test_weights_depend_on_the_seed_alone_and_embedding_on_no_dropout():
    tokens = torch.randint(5, (9, 4), generator=torch.Generator().manual_seed(0))
    made = []
    for seed in (3, 3, 4):
        torch.rand(1)
        with seeded(seed):
            made.append(Autoencoder(5, 6, dropout=0.5).embed(tokens))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="expected positive"):
        SequenceTraining(clip=0.0)

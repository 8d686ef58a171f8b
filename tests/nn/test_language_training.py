import math

import pytest
import torch
import torch.nn.functional as F

from lightning_nas.errors import UsageError
from lightning_nas.nn.language_training import LanguageRecipe, LanguageTraining, columns
from lightning_nas.nn.recurrent_cells import LanguageModels
from tests.nn.test_recurrent_cells import random_cells

SMALL = {"width": 6, "batch_size": 4, "eval_batch_size": 2, "bptt": 8, "init_range": 0.3, "learning_rate": 2.0}
PLAIN = {"input_dropout": 0.0, "hidden_dropout": 0.0, "output_dropout": 0.0, "slowness": 0.0, "weight_decay": 0.0}


def a_text(size=240, words=5, seed=0):
    """Every word is the last one plus one or two."""
    steps = torch.randint(1, 3, (size,), generator=torch.Generator().manual_seed(seed))
    return steps.cumsum(0) % words


def texts():
    return columns(a_text(), 4), columns(a_text(90, seed=1), 2)


def trained(cells, **changes):
    training = LanguageTraining(cells, 5, LanguageRecipe(**SMALL | {"epochs": 5, "learning_rate": 5.0} | changes))
    return training, training.train(*texts())


def test_plain_training_is_torch_s_gradient_descent():
    cells = random_cells(1)
    _, curve = trained(cells, **PLAIN, random_length=False, averaging_after=None)
    text, valid = texts()
    models = LanguageModels(cells, 5, 6, 0.3)
    optimizer, state = torch.optim.SGD(models.parameters(), 5.0), models.initial_state(4)
    for begin in 5 * list(range(0, len(text) - 1, 8)):
        state = models.initial_state(4) if begin == 0 else state
        end = min(begin + 8, len(text) - 1)
        logits, state = models(text[begin:end], state.detach())
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 2), text[begin + 1 : end + 1].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(models.parameters(), 0.25)
        optimizer.step()
    logits, _ = models(valid[:-1])
    expected = F.cross_entropy(logits.flatten(0, 2), valid[1:].flatten()).detach()
    assert expected < 1.5 < curve[0, 0]
    torch.testing.assert_close(curve[0, -1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [PLAIN, {"word_dropout": 0.1, "activation": 1e-3}], ids=["plain", "all pieces"])
def test_cells_side_by_side_learn_what_they_learn_alone(changes):
    cells = random_cells(3)
    _, together = trained(cells, **changes)
    for place in range(3):
        _, alone = trained(cells[place : place + 1], **changes)
        torch.testing.assert_close(alone[0], together[place], rtol=1e-3, atol=1e-4)
    assert together[:, -1].std() > 1e-5


def test_it_learns_and_the_seed_fixes_it():
    cells = random_cells(2)
    training, curve = trained(cells, **PLAIN, epochs=12, learning_rate=5.0)
    assert curve[:, -1].max() < curve[:, 0].min() - 0.1
    assert training.loss(texts()[1]).tolist() == curve[:, -1].tolist()
    assert torch.equal(trained(cells, **PLAIN, epochs=12, learning_rate=5.0)[1], curve)


def test_slowness_and_activation_keep_outputs_small():
    cells = random_cells(2)
    sizes = []
    for penalty in (0.0, 3.0):
        training, _ = trained(cells, **PLAIN | {"slowness": penalty}, activation=penalty, epochs=4)
        outputs, _ = training.models.run(texts()[1], training.models.initial_state(2))
        sizes.append(float(outputs.square().mean()))
    assert sizes[1] < 0.5 * sizes[0]


def test_averages_count_from_where_they_begin():
    cells = random_cells(2)
    training = LanguageTraining(cells, 5, LanguageRecipe(**SMALL, epochs=3, averaging_after=0))
    text, valid = texts()
    training._epoch(text, 0)
    seen, parameter = [], training.models.first
    original = training._step

    def watched(gradients, rate):
        original(gradients, rate)
        seen.append(parameter.detach().clone())

    fresh = LanguageTraining(cells, 5, LanguageRecipe(**SMALL, epochs=3, averaging_after=0))
    parameter, original, fresh._step = fresh.models.first, fresh._step, watched
    fresh._epoch(text, 0)
    torch.testing.assert_close(fresh.averages[1], torch.stack(seen).mean(dim=0), rtol=1e-4, atol=1e-6)
    loss = fresh.loss(valid)
    assert torch.equal(fresh.models.first, seen[-1])  # evaluation puts the weights back
    for parameter, average in zip(fresh.models.parameters(), fresh.averages, strict=True):
        parameter.data = average
    fresh.averages = [average.clone() for average in fresh.averages]
    torch.testing.assert_close(fresh.loss(valid), loss)


def test_averaging_begins_where_an_epoch_is_worse_than_the_best_before_the_last():
    training = LanguageTraining(random_cells(2), 5, LanguageRecipe(**SMALL, averaging_after=2))
    losses = [[3.0, 3.0], [2.0, 2.0], [2.5, 1.5], [2.1, 1.4], [1.9, 1.3]]
    begun = []
    for number, loss in enumerate(losses, start=1):
        training.steps = 10 * number
        training._maybe_average(torch.tensor(loss))
        training.curve.append(torch.tensor(loss))
        begun.append(training.begins.tolist())
    assert begun[2] == [math.inf, math.inf]
    assert begun[3] == [math.inf, math.inf]  # 2.1 is better than 3.0, the best of all but the last two
    training._maybe_average(torch.tensor([2.2, 1.2]))
    assert training.begins.tolist() == [50.0, math.inf]


def test_a_model_that_diverges_is_as_bad_as_guessing():
    training = LanguageTraining(random_cells(2), 5, LanguageRecipe(**SMALL))
    training.models.first.data[0] = torch.nan
    training.averages = [parameter.detach().clone() for parameter in training.models.parameters()]
    loss = training.loss(texts()[1])
    assert loss[0].item() == pytest.approx(math.log(5))
    assert loss[1] <= math.log(5)


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"word_dropout": 1.0}, {"slowness": -1.0}], ids=str)
def test_what_cannot_be_is_said(changes):
    with pytest.raises(UsageError, match="expected positive sizes"):
        LanguageRecipe(**changes)
    with pytest.raises(UsageError, match="at least two for each"):
        columns(torch.arange(5), 3)

import pytest
import torch
from scipy.stats import spearmanr

from lightning_nas.errors import UsageError
from lightning_nas.nn.inner_loop import InnerAdam, InnerLoop
from lightning_nas.nn.motif_network import SlopeNetwork
from lightning_nas.predictors.petri_dish import PetriDishPredictor
from tests.datamodules.test_motifs import SPACE, make_benchmark


def make_predictor(**changes):
    given = {
        "network": SlopeNetwork(4, 3, 5), "loop": InnerLoop(InnerAdam(0.1), 60), "stages": [(60, 0.1)],
        "num_dishes": 1,
    }  # fmt: skip
    return PetriDishPredictor(**given | changes)


def test_it_ranks_what_it_has_seen_in_the_units_of_the_scores():
    members = torch.arange(5, 17)
    scores = make_benchmark().lookup(members).valid
    fitted = make_predictor().fit(SPACE, members, scores, 0)
    guess = fitted.predict(members)
    assert spearmanr(guess, scores).statistic > 0.9
    assert guess.mean().item() == pytest.approx(scores.mean().item(), abs=0.1)
    again = make_predictor().fit(SPACE, members, scores, 0).predict(members)
    assert torch.equal(guess, again)
    assert not torch.equal(guess, make_predictor().fit(SPACE, members, scores, 1).predict(members))


def test_dishes_of_several_runs_are_those_of_each():
    benchmark, predictor = make_benchmark(), make_predictor(num_dishes=2)
    chosen = [torch.arange(5, 13), torch.arange(8, 16)]
    known = [(members, benchmark.lookup(members).valid) for members in chosen]
    asked = [torch.arange(20), torch.arange(3, 9)]
    together = predictor.predict_runs(SPACE, known, asked, [4, 9])
    for (members, scores), wanted, seed, found in zip(known, asked, [4, 9], together, strict=True):
        alone = predictor.fit(SPACE, members, scores, seed).predict(wanted)
        torch.testing.assert_close(found, alone, rtol=1e-8, atol=0)
    dish = predictor.learn_runs(SPACE, known, [4, 9])
    assert torch.equal(dish.fresh_inputs(0), predictor.dish(4).inputs[0])


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="PetriDish"):
        make_predictor(num_dishes=-1)
    with pytest.raises(UsageError, match="at least two"):
        make_predictor().fit(SPACE, torch.tensor([3]), torch.tensor([1.0]), 0)

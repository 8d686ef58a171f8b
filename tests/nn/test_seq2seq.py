import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_nas.nn.seq2seq import SequenceDecoder, SequenceEncoder, dropped

TOKENS, DIM, LENGTH = 7, 6, 5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def sequences():
    return torch.randint(TOKENS, (4, LENGTH))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_by_hand(inputs, lstm, suffix, hidden, cell):
    """One direction, step by step, in NumPy; gates in torch's order."""
    weights = {name: getattr(lstm, f"{name}_l0{suffix}").detach().numpy() for name in
               ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}  # fmt: skip
    outputs = []
    for x in inputs:
        gates = weights["weight_ih"] @ x + weights["weight_hh"] @ hidden + weights["bias_ih"] + weights["bias_hh"]
        i, f, g, o = np.split(gates, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return np.array(outputs)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_encoder_is_that_of_the_formulas(sequences):
    encoder = SequenceEncoder(TOKENS, DIM)
    steps, embedding = encoder(sequences)
    zero = np.zeros(DIM)
    for row, tokens in enumerate(sequences.numpy()):
        x = encoder.tokens.weight.detach().numpy()[tokens]
        there = lstm_by_hand(x, encoder.lstm, "", zero, zero)
        back = lstm_by_hand(x[::-1], encoder.lstm, "_reverse", zero, zero)[::-1]
        projected = np.concatenate([there, back], axis=1) @ encoder.project.weight.detach().numpy().T
        expected = unit(x + projected + encoder.project.bias.detach().numpy())
        np.testing.assert_allclose(steps[row].detach(), expected, atol=1e-5)
        np.testing.assert_allclose(embedding[row].detach(), unit(expected.mean(axis=0)), atol=1e-5)


def test_the_decoder_is_that_of_the_formulas(sequences):
    encoder, decoder = SequenceEncoder(TOKENS, DIM), SequenceDecoder(TOKENS, DIM)
    steps, embedding = (part.detach() for part in encoder(sequences))
    logits = decoder(sequences, steps, embedding)
    weight = {name: p.detach().numpy() for name, p in decoder.named_parameters()}
    for row, tokens in enumerate(sequences.numpy()):
        x = weight["tokens.weight"][[0, *tokens[:-1]]]
        e, u = embedding[row].numpy(), steps[row].numpy()
        first = math.sqrt(0.5) * (x + lstm_by_hand(x, decoder.lstm, "", e, e))
        scores = first @ weight["query.weight"].T @ u.T
        attention = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        context = np.concatenate([attention @ u, first], axis=1)
        second = math.sqrt(0.5) * (first + np.tanh(context @ weight["combine.weight"].T))
        expected = second @ weight["logits.weight"].T + weight["logits.bias"]
        np.testing.assert_allclose(logits[row].detach(), expected, atol=1e-5)


def test_writing_follows_its_own_tokens(sequences):
    encoder, decoder = SequenceEncoder(TOKENS, DIM), SequenceDecoder(TOKENS, DIM)
    steps, embedding = (part.detach() for part in encoder(sequences))
    written = decoder.write(steps, embedding, torch.ones(LENGTH, TOKENS, dtype=torch.bool))
    assert written.shape == sequences.shape
    assert torch.equal(decoder(written, steps, embedding).argmax(dim=-1), written)


def test_writing_keeps_to_what_is_allowed(sequences):
    encoder, decoder = SequenceEncoder(TOKENS, DIM), SequenceDecoder(TOKENS, DIM)
    allowed = torch.zeros(LENGTH, TOKENS, dtype=torch.bool)
    allowed[:, 1:3] = True
    allowed[2] = F.one_hot(torch.tensor(5), TOKENS).bool()
    written = decoder.write(*encoder(sequences), allowed)
    assert set(written[:, [0, 1, 3, 4]].flatten().tolist()) <= {1, 2}
    assert (written[:, 2] == 5).all()


def test_an_autoencoder_learns_to_write_what_it_read():
    sequences = torch.randint(1, TOKENS, (12, LENGTH))
    encoder, decoder = SequenceEncoder(TOKENS, 16), SequenceDecoder(TOKENS, 16)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-2)
    for _ in range(150):
        loss = F.cross_entropy(decoder(sequences, *encoder(sequences)).flatten(0, 1), sequences.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    everything = torch.ones(LENGTH, TOKENS, dtype=torch.bool)
    assert (decoder.write(*encoder(sequences), everything) == sequences).float().mean() > 0.9


def test_dropout_draws_from_the_generator_alone():
    values = torch.ones(1000)
    draw = dropped(values, 0.25, torch.Generator().manual_seed(1))
    assert set(draw.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert draw.mean().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(draw, dropped(values, 0.25, torch.Generator().manual_seed(1)))
    assert dropped(values, 0.25, None) is values

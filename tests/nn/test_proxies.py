"""Every proxy against a transcription of its formula that knows one network, one layer, one image at a time."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.nn import proxies
from lightning_nas.nn.proxies import Twins
from lightning_nas.spaces.nasbench201 import NASBench201

SPACE = NASBench201()
MIXED = SPACE.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")
DEAD = SPACE.parse("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|none~2|")
SHAPE = (3, 8, 8)


def networks(arch=MIXED, count=2, **sizes):
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(SPACE.build(arch, channels=4, cells_per_stage=1, num_stages=2, **sizes))
    return made


def batch(count=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *SHAPE, generator=generator), torch.arange(count) % 3


def scored(name, nets, images, labels):
    return torch.cat([getattr(proxies, name)(twins, images, labels) for twins in Twins.of(nets, SHAPE)])


def layers_of(net):
    return [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def backward(net, images, labels):
    net = copy.deepcopy(net).train()
    F.cross_entropy(net(images), labels).backward()
    return [(layer.weight.detach().double(), (layer.weight.grad if layer.weight.grad is not None else torch.zeros_like(
        layer.weight)).double()) for layer in layers_of(net)]  # fmt: skip


def by_l2_norm(net, images, labels):
    return sum(float((layer.weight.detach().double() ** 2).sum() ** 0.5) for layer in layers_of(net))


def by_grad_norm(net, images, labels):
    return sum(float((g**2).sum() ** 0.5) for _, g in backward(net, images, labels))


def by_plain(net, images, labels):
    return sum(float((w * g).sum()) for w, g in backward(net, images, labels))


def by_snip(net, images, labels):
    """By its definition: the gradient at a mask of ones on the weights."""
    net = copy.deepcopy(net).train()
    masks = []
    for layer in layers_of(net):
        mask = torch.ones_like(layer.weight, requires_grad=True)
        masks.append(mask)
        weight = layer.weight.detach()
        if isinstance(layer, nn.Conv2d):
            layer.forward = lambda x, o=layer, w=weight, m=mask: F.conv2d(x, w * m, None, o.stride, o.padding)
        else:
            layer.forward = lambda x, o=layer, w=weight, m=mask: F.linear(x, w * m, o.bias)
    F.cross_entropy(net(images), labels).backward()
    return sum(float(mask.grad.double().abs().sum()) for mask in masks if mask.grad is not None)


def by_grasp(net, images, labels):
    """The Hessian's product by finite differences of the gradient along the gradient."""
    net = copy.deepcopy(net).double().train()
    weights = [layer.weight for layer in layers_of(net)]

    def gradient():
        found = torch.autograd.grad(F.cross_entropy(net(images.double()), labels), weights, allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]

    direction, start, sides, step = gradient(), [w.detach().clone() for w in weights], [], 1e-5
    for sign in (1, -1):
        with torch.no_grad():
            for w, s, d in zip(weights, start, direction, strict=True):
                w.copy_(s + sign * step * d)
        sides.append(gradient())
    products = [(up - down) / (2 * step) for up, down in zip(*sides, strict=True)]
    return -sum(float((p * s).sum()) for p, s in zip(products, start, strict=True))


def by_fisher(net, images, labels):
    net = copy.deepcopy(net).train()
    kept = []
    for layer in layers_of(net):
        layer.register_forward_hook(lambda layer, _, output: kept.append((layer, output)) or output.retain_grad())
    F.cross_entropy(net(images), labels).backward()
    total = 0.0
    for layer, output in kept:
        if output.grad is None:
            continue
        for channel in range(output.shape[1]):
            sums = [float((output[i, channel] * output.grad[i, channel]).double().sum()) for i in range(len(images))]
            total += 0.5 * np.mean(np.square(sums)) * layer.weight[channel].numel()
    return total


def by_synflow(net, images, labels):
    net = copy.deepcopy(net).double()
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            net.set_submodule(name, nn.Identity())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.abs())
    net(torch.ones(1, *SHAPE, dtype=torch.float64)).sum().backward()
    grads = [(layer.weight, layer.weight.grad) for layer in layers_of(net)]
    return float(np.log(sum(float((w * g).abs().sum()) for w, g in grads if g is not None)))


def jacobian(net, images):
    x = images.clone().requires_grad_()
    copy.deepcopy(net).train()(x).sum().backward()
    return x.grad.flatten(1).double().numpy()


def by_jacob_cov(net, images, labels):
    v = np.linalg.eigvalsh(np.corrcoef(jacobian(net, images)))
    return -np.sum(np.log(v + 1e-5) + 1 / (v + 1e-5))


def by_epe_nas(net, images, labels):
    rows, total = jacobian(net, images), 0.0
    for label in range(3):
        total += abs(np.sum(np.log(np.abs(np.corrcoef(rows[labels.numpy() == label])) + 1e-5)))
    return total


def relu_codes(net, images):
    net, codes = copy.deepcopy(net).train(), []
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, __, output: codes.append((output > 0).flatten(1)))
    net(images)
    return torch.cat(codes, dim=1)


def by_naswot(net, images, labels):
    codes = relu_codes(net, images).numpy()
    kernel = np.array([[np.sum(a == b) for b in codes] for a in codes], dtype=np.float64)
    return np.log(abs(np.linalg.det(kernel)))


def by_zen(net, images, labels):
    net = copy.deepcopy(net).train()
    with torch.no_grad():
        for layer in layers_of(net):
            layer.weight /= layer.weight.std()
    generator = torch.Generator().manual_seed(0)
    x, e = (torch.randn(images.shape, generator=generator) for _ in range(2))
    scales = []

    def seen(_, inputs, __):
        variance = inputs[0].double().transpose(0, 1).flatten(1).var(dim=1, correction=0)
        scales.append(float(torch.log(variance.mean().sqrt())))

    handles = [m.register_forward_hook(seen) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    maps = [net.last_activation(net.cells(net.stem(x)))]
    for handle in handles:
        handle.remove()
    maps.append(net.last_activation(net.cells(net.stem(x + 0.01 * e))))
    return float((maps[0] - maps[1]).double().abs().mean().log()) + sum(scales)


def by_ntk(net, images, labels):
    net = copy.deepcopy(net).train()
    scores, rows = net(images), []
    for i in range(len(images)):
        net.zero_grad()
        scores[i].sum().backward(retain_graph=True)
        rows.append(np.concatenate([
            (layer.weight.grad if layer.weight.grad is not None else torch.zeros_like(layer.weight)).flatten().numpy()
            for layer in layers_of(net)
        ]))  # fmt: skip
    gradients = np.array(rows, dtype=np.float64)
    values = np.linalg.eigvalsh(gradients @ gradients.T)
    return -values[-1] / values[0]


@pytest.mark.parametrize("name", proxies.OF_IMAGES)
def test_it_is_its_formula(name):
    nets, (images, labels) = networks(), batch()
    assert Twins.of(nets, SHAPE)[0].size == 2  # both in one pass
    ours = scored(name, nets, images, labels)
    assert ours.dtype == torch.float64
    expected = [globals()[f"by_{name}"](net, images, labels) for net in nets]
    tolerance = {"ntk": 2e-2, "jacob_cov": 2e-2, "grasp": 1e-3, "zen": 1e-3}.get(name, 2e-4)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=tolerance)
    assert ours[0] != ours[1]


def test_linear_regions_are_different_patterns():
    nets = networks(in_channels=1)
    crops = torch.randn(200, 1, 3, 3, generator=torch.Generator().manual_seed(2)).round()  # few values: some alike
    found = torch.cat([proxies.linear_regions(twins, crops) for twins in Twins.of(nets, (1, 3, 3))])
    expected = [len({tuple(row) for row in relu_codes(net, crops).tolist()}) for net in nets]
    assert found.tolist() == expected
    assert 1 < expected[0] <= 200
    same = torch.ones(50, 1, 3, 3)
    assert proxies.linear_regions(Twins(nets[0], 1), same).tolist() == [1.0]


@pytest.mark.parametrize("name", proxies.OF_IMAGES)
def test_networks_that_nothing_goes_through_are_no_error(name):
    images, labels = batch()
    score = scored(name, networks(DEAD, num_classes=10), images, labels)
    if name in ("jacob_cov", "epe_nas"):
        assert score.isnan().all()
    else:
        assert score.isfinite().all()


def test_a_network_is_left_as_it_was():
    nets, (images, labels) = networks(), batch()
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]
    for name in proxies.OF_IMAGES:
        scored(name, nets, images, labels)
    for net, state in zip(nets, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", proxies.OF_IMAGES)
def test_networks_apart_score_as_together(name):
    """Where networks cannot become one, each is scored by itself."""
    nets, (images, labels) = networks(), batch()
    apart = torch.cat([getattr(proxies, name)(Twins(copy.deepcopy(net), 1), images, labels) for net in nets])
    together = scored(name, nets, images, labels)
    torch.testing.assert_close(apart, together, rtol=2e-2 if name in ("ntk", "jacob_cov") else 1e-3, atol=1e-6)


def test_synflow_survives_what_single_precision_does_not():
    torch.manual_seed(0)
    deep = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), *(nn.Conv2d(40, 40, 3, padding=1) for _ in range(30)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in deep.parameters():
            parameter.mul_(20)
    score = proxies.synflow(Twins(deep, 1), *batch())
    assert 90 < score.item() < 600  # float32 ends at exp(88)


def test_te_nas_adds_ranks_and_the_vote_is_a_majority():
    condition, regions = torch.tensor([-5.0, -1.0, -9.0]), torch.tensor([10.0, 30.0, 20.0])
    assert proxies.te_nas(condition, regions).tolist() == [1.0, 4.0, 1.0]
    scores = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]), torch.tensor([9.0, 2.0, float("nan")])]
    assert proxies.vote(scores).tolist() == [0.0, 2.0, 1.0]

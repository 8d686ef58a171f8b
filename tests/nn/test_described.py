from lightning_nas.nn.described import described, made
from lightning_nas.nn.inner_loop import InnerAdam, InnerLoop


def test_objects_within_objects_come_back():
    loop = InnerLoop(InnerAdam(0.2, (0.5, 0.6)), 7, segment=3)
    assert made(described(loop)) == loop
    assert described(loop)["init_args"]["optimizer"]["init_args"]["betas"] == [0.5, 0.6]
    assert made(loop) is loop

"""Benchmarks whose evaluations end in an order of the test's choice."""

from concurrent.futures import Future


class Scripted:
    """Mix it into a benchmark: evaluations stay under way until ``at_once`` of them are, and then one ends.

    Say ``script(total, at_once, choose)`` first: evaluations that will be asked for (after the last of them all that
    are left end), how many can run at a time, and which of those under way ends next (architectures -> position).
    """

    def script(self, total, at_once, choose):
        self.total, self.at_once, self.choose = total, at_once, choose
        self.pending, self.submitted, self.ended = [], [], []
        return self

    @property
    def parallelism(self):
        return self.at_once

    def submit(self, arch, epochs=None):
        future = HeardFuture(self.go_on)
        self.pending.append((arch, future, super().submit(arch, epochs).result()))
        self.submitted.append(arch)
        return future

    def go_on(self):
        everything = len(self.submitted) == self.total
        while self.pending and (everything or len(self.pending) >= self.at_once):
            arch, ending, scores = self.pending.pop(self.choose([arch for arch, *_ in self.pending]))
            self.ended.append(arch)
            ending.set_result(scores)


class HeardFuture(Future):
    """Says when somebody listens to it, so that no end goes unheard or is heard too late."""

    def __init__(self, heard):
        super().__init__()
        self.heard = heard

    def add_done_callback(self, function):
        super().add_done_callback(function)
        self.heard()


def in_order_of(archs):
    """Chooses so that evaluations end in a given order."""
    left = list(archs)
    return lambda pending: pending.index(left.pop(0))

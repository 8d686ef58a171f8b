from tests.benchmarks.conftest import make_live

__all__ = ["make_live"]

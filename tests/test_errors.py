import inspect

import pytest

from lightning_nas import errors

KINDS = [kind for kind in vars(errors).values() if inspect.isclass(kind)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_can_be_caught_as_one_and_says_what_it_is(kind):
    assert issubclass(kind, errors.NASError)
    assert kind.__doc__


@pytest.mark.parametrize("kind", [errors.SpaceError, errors.EncodingError])
def test_bad_values_are_value_errors_too(kind):
    assert issubclass(kind, ValueError)

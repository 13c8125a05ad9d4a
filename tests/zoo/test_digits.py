"""scikit-learn's digits, and the small network of the demo."""

from __future__ import annotations

import pytest
import torch

from qpass.zoo.digits import CALIBRATION, EVALUATION, load_digits, train_digits_vit


def test_sets_are_apart_and_calibration_is_a_part_of_training() -> None:
    digits = load_digits()
    (x, y), (held, labels) = digits.train, digits.evaluation
    assert (len(x) + len(held), len(held), len(digits.calibration)) == (1797, EVALUATION, CALIBRATION)
    assert (len(y), len(labels)) == (len(x), len(held))
    assert (x.min(), x.max()) == (0, 1)
    assert torch.equal(digits.calibration, x[:CALIBRATION])
    seen = {image.numpy().tobytes() for image in x}
    assert sum(image.numpy().tobytes() in seen for image in held) <= 0.01 * len(held), "but for digits that are there twice"


def test_the_order_is_that_of_the_seed() -> None:
    assert torch.equal(load_digits(3).evaluation[0], load_digits(3).evaluation[0])
    assert not torch.equal(load_digits(3).evaluation[0], load_digits(4).evaluation[0])


def test_training_is_repeatable_and_leaves_the_random_state() -> None:
    digits = load_digits()
    few = type(digits)((digits.train[0][:256], digits.train[1][:256]), digits.calibration, digits.evaluation)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = train_digits_vit(few, epochs=1, show_progress=False)
    with torch.no_grad():  # a caller's mode, under which it learns all the same
        second = train_digits_vit(few, epochs=1, show_progress=False)
    assert torch.equal(torch.rand(1), expected)
    with torch.no_grad():
        assert torch.equal(first(few.calibration), second(few.calibration))
    assert not first.training


@pytest.mark.slow
def test_it_learns_the_digits() -> None:
    digits = load_digits()
    images, labels = digits.evaluation
    model = train_digits_vit(digits, epochs=20, show_progress=False)
    with torch.no_grad():
        found = model(images).argmax(1)
    assert (found == labels).float().mean() > 0.9

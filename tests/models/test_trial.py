"""A teacher is tried on views before its labels are believed: what cannot be logits, or does not repeat."""

from __future__ import annotations

import re
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from teacher_cache.errors import ModelError
from teacher_cache.labels.topk import labels_from_logits
from teacher_cache.models.class_map import ClassMap, MappedModel
from teacher_cache.models.kinds import TeacherSettings
from teacher_cache.models.teacher import Teacher, TeacherSpec
from teacher_cache.models.trial import check_trial

IMG_SIZE = 8


class Net(torch.nn.Module):
    """Linear classifier of pooled pixels, and a function of its logits."""

    def __init__(self, num_classes: int, seed: int, ending: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = torch.nn.Linear(12, num_classes)
        self.norm = torch.nn.BatchNorm1d(12)
        self._ending = ending

    def forward(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        features = torch.nn.functional.adaptive_avg_pool2d(inputs_BCHW, 2).flatten(1)
        return self._ending(8 * self.head(self.norm(features)))


class InTraining(Net):
    """Model that ignores eval()."""

    def train(self, mode: bool = True) -> InTraining:
        del mode
        return super().train(True)


def teacher_of(module: torch.nn.Module, num_classes: int) -> Teacher:
    spec = TeacherSpec("made", {}, "", num_classes, (0.5,) * 3, (0.2,) * 3, "float32")
    return Teacher(module, spec, torch.device("cpu"), TeacherSettings(name="made"))


def views(num: int, seed: int = 0) -> torch.Tensor:
    """Return pixels (num, 3, H, W) of flat colours with noise."""
    random = torch.Generator().manual_seed(seed)
    colours = torch.rand(num, 3, 1, 1, generator=random) * 200
    return colours + torch.rand(num, 3, IMG_SIZE, IMG_SIZE, generator=random) * 55


def ruled_out(logits_BC: torch.Tensor) -> torch.Tensor:
    return torch.cat([logits_BC[:, :-2], torch.full_like(logits_BC[:, -2:], -torch.inf)], 1)


class Counting:
    """Ending that adds the number of its call to one class."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, logits_BC: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return logits_BC + self.calls * torch.nn.functional.one_hot(torch.tensor(0), logits_BC.shape[1])


ACCEPTED = {
    "logits": lambda logits_BC: logits_BC,
    "large logits": lambda logits_BC: 1000 * logits_BC,
    "log-softmax": lambda logits_BC: logits_BC.log_softmax(1),
    "all negative, as of a binary cross-entropy": lambda logits_BC: logits_BC - 100,
    "all positive": lambda logits_BC: logits_BC + 100,
    "classes ruled out": ruled_out,
}
REFUSED = {
    "softmax": (lambda logits_BC: logits_BC.softmax(1), "probabilities"),
    "percentages": (lambda logits_BC: 100 * logits_BC.softmax(1), "probabilities"),
    "flat softmax": (lambda logits_BC: (logits_BC / 1000).softmax(1), "probabilities"),
    "sigmoid": (lambda logits_BC: logits_BC.sigmoid(), "sigmoid"),
    "relu": (lambda logits_BC: logits_BC.relu(), "ReLU"),
    "constant": (lambda logits_BC: logits_BC[:, :1] * 0 - torch.arange(logits_BC.shape[1]), "the same"),
    "dropout": (lambda logits_BC: torch.dropout(logits_BC, 0.1, True), "again"),
    "noise": (lambda logits_BC: logits_BC + 0.1 * torch.randn_like(logits_BC), "again"),
    "neighbours": (lambda logits_BC: logits_BC - logits_BC.mean(0), "another batch"),
    "the call": (Counting(), "again"),
}


@pytest.mark.parametrize("ending", ACCEPTED.values(), ids=ACCEPTED)
@settings(max_examples=10, deadline=None)
@given(num_classes=st.integers(3, 50), num_views=st.integers(1, 9), seed=st.integers(0, 2**16))
def test_logits_are_accepted(
    ending: Callable[[torch.Tensor], torch.Tensor], num_classes: int, num_views: int, seed: int
) -> None:
    check_trial(teacher_of(Net(num_classes, seed, ending), num_classes), views(num_views, seed))


@pytest.mark.parametrize(("ending", "problem"), REFUSED.values(), ids=REFUSED)
@settings(max_examples=10, deadline=None)
@given(num_classes=st.integers(3, 50), num_views=st.integers(6, 20), seed=st.integers(0, 2**16))
def test_what_cannot_be_logits_is_refused(
    ending: Callable[[torch.Tensor], torch.Tensor], problem: str, num_classes: int, num_views: int, seed: int
) -> None:
    with pytest.raises(ModelError, match=problem):
        check_trial(teacher_of(Net(num_classes, seed, ending), num_classes), views(num_views, seed))


@settings(max_examples=10, deadline=None)
@given(num_views=st.integers(4, 20), seed=st.integers(0, 2**16))
def test_batch_normalisation_in_training_mode_is_refused(num_views: int, seed: int) -> None:
    model = InTraining(5, seed, lambda logits_BC: logits_BC)
    with pytest.raises(ModelError, match="again|another batch"):
        check_trial(teacher_of(model, 5), views(num_views, seed))


@pytest.mark.parametrize(
    ("ending", "found"),
    [
        (
            "logits",
            r"^logits from -[0-9.]+ to [0-9.]+, the same in another call and another batch, on 4 views$",
        ),
        ("log-softmax", r"^log-probabilities from -[0-9.]+ to -[0-9.e-]+, "),
        ("classes ruled out", r"^logits from (.*), on 4 views; 2 classes are ruled out$"),
    ],
)
def test_what_was_found_is_told(ending: str, found: str) -> None:
    kind, told = check_trial(teacher_of(Net(5, 0, ACCEPTED[ending]), 5), views(4))
    assert re.search(found, told), told
    assert kind == re.sub(r" from .* on 4 views", "", told)


def test_probabilities_behind_a_class_map_are_refused() -> None:
    model = MappedModel(Net(6, 0, lambda logits_BC: logits_BC.softmax(1)), ClassMap(((0, 3), (5,), (1,))))
    with pytest.raises(ModelError, match="probabilities"):
        check_trial(teacher_of(model, 3), views(8))


def test_views_that_are_equal_may_have_equal_logits() -> None:
    check_trial(teacher_of(Net(5, 0, lambda logits_BC: logits_BC), 5), views(1).expand(4, -1, -1, -1))


@settings(max_examples=10, deadline=None)
@given(num_classes=st.integers(2, 50), seed=st.integers(0, 2**16))
def test_the_labels_of_log_probabilities_hold_those_probabilities(num_classes: int, seed: int) -> None:
    model, pixels = Net(num_classes, seed, lambda logits_BC: logits_BC), views(4, seed)
    labels = labels_from_logits(teacher_of(model, num_classes).logits(pixels).log_softmax(1), num_classes)
    wanted_BC = teacher_of(model, num_classes).logits(pixels).softmax(1)
    found_BC = torch.zeros_like(wanted_BC).scatter(1, labels.class_ids_BK.long(), labels.probabilities())
    torch.testing.assert_close(found_BC, wanted_BC, atol=1e-6, rtol=1e-4)


def test_classes_that_are_ruled_out_have_probability_0() -> None:
    labels = labels_from_logits(teacher_of(Net(5, 0, ruled_out), 5).logits(views(4)), 5)
    assert (labels.probabilities()[:, 3:] == 0).all()
    assert set(labels.class_ids_BK[:, 3:].flatten().tolist()) == {3, 4}


def test_a_view_whose_classes_are_all_ruled_out_stays_without_finite_logits() -> None:
    model = Net(5, 0, lambda logits_BC: torch.full_like(logits_BC, -torch.inf))
    assert not teacher_of(model, 5).logits(views(4)).isfinite().any()

"""Several teachers at once: loss and gradient against float64, and the archives that may teach together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # as torch's own documentation names it
from support import extract_flags

from pipelines.cli import main
from student.cli import main as student
from teacher_cache import LabelledViews, hard_loss, open_labels, soft_loss
from teacher_cache.archive.open import LabelPlaces, open_any
from teacher_cache.archive.readers.ensemble import LabelEnsemble
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.labels.affinity import affinity_rows, probabilities_of
from teacher_cache.labels.ensemble import top_classes
from teacher_cache.labels.tails import dense_probabilities
from teacher_cache.labels.topk import EnsembleAffinity, EnsembleLabels, Labels, labels_from_logits

Capture = pytest.CaptureFixture[str]
NUM_VIEWS, NUM_CLASSES = 64, 20
WEIGHTS = (0.4, 0.25, 0.35)


def teachers(k: int, seed: int = 0) -> tuple[EnsembleLabels, EnsembleAffinity]:
    """Labels of three teachers, and the affinity of each, calibrated on its own logits."""
    generator = torch.Generator().manual_seed(seed)
    logits = [3 * torch.randn(NUM_VIEWS, NUM_CLASSES, generator=generator) for _ in WEIGHTS]
    labels = tuple(labels_from_logits(one, k) for one in logits)
    rows = [
        affinity_rows(probabilities_of(one), NUM_CLASSES, 8) if k < NUM_CLASSES else None for one in logits
    ]
    return EnsembleLabels(labels, torch.tensor(WEIGHTS)), EnsembleAffinity(tuple(rows))


def by_hand(labels: Labels, tail: str, affinity: Labels | None, temperature: float) -> torch.Tensor:
    """Tempered probabilities of all classes, float64, from the probabilities that a label stands for."""
    kept_BK = labels.relative_logits_BK.double().softmax(1)
    if tail == "affinity" and affinity is not None:
        whole_BC = dense_probabilities(labels, NUM_CLASSES, affinity).double()
    else:
        tail_B = labels.tail_B.double() if tail == "uniform" else torch.zeros(NUM_VIEWS, dtype=torch.float64)
        num_outside = max(NUM_CLASSES - kept_BK.shape[1], 1)
        whole_BC = (tail_B / num_outside)[:, None].repeat(1, NUM_CLASSES)
        whole_BC.scatter_(1, labels.class_ids_BK.long(), kept_BK * (1 - tail_B)[:, None])
    tempered_BC = whole_BC ** (1 / temperature)
    return tempered_BC / tempered_BC.sum(1, keepdim=True)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("tail", ["affinity", "uniform", "renormalised"])
@pytest.mark.parametrize("k", [1, 5, NUM_CLASSES])
def test_loss_and_gradient_are_those_of_the_mean_probabilities(k: int, tail: str, temperature: float) -> None:
    labels, affinity = teachers(k)
    logits_BC = torch.randn(NUM_VIEWS, NUM_CLASSES, generator=torch.Generator().manual_seed(9))
    ours, theirs = logits_BC.clone().requires_grad_(), logits_BC.double().requires_grad_()
    loss = soft_loss(ours, labels, temperature=temperature, tail=tail, affinity=affinity)
    parts = [
        weight * by_hand(one, tail, its, temperature)
        for weight, one, its in zip(WEIGHTS, labels.members, affinity.members, strict=True)
    ]
    mean_BC = torch.stack(parts).sum(0)
    log_student_BC = F.log_softmax(theirs / temperature, dim=1)
    reference = temperature**2 * F.kl_div(log_student_BC, mean_BC, reduction="batchmean")
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad.float(), rtol=1e-4, atol=1e-7)
    cross_entropies = [
        -(weight * by_hand(one, tail, its, temperature) * log_student_BC).sum(1).mean()
        for weight, one, its in zip(WEIGHTS, labels.members, affinity.members, strict=True)
    ]
    entropy = -torch.special.xlogy(mean_BC, mean_BC).sum(1).mean()
    assert (temperature**2 * (sum(cross_entropies) - entropy)).item() == pytest.approx(reference.item())


@pytest.mark.parametrize("tail", ["affinity", "uniform", "renormalised"])
@pytest.mark.parametrize("k", [1, 5, NUM_CLASSES])
def test_the_hard_label_is_the_means_top_class(k: int, tail: str) -> None:
    labels, affinity = teachers(k)
    parts = [
        weight * by_hand(one, tail, its, 1.0)
        for weight, one, its in zip(WEIGHTS, labels.members, affinity.members, strict=True)
    ]
    mean_BC = torch.stack(parts).sum(0)
    top_B = top_classes(labels, NUM_CLASSES, tail=tail, affinity=affinity)
    torch.testing.assert_close(mean_BC.gather(1, top_B[:, None])[:, 0], mean_BC.amax(1))
    logits_BC = torch.randn(NUM_VIEWS, NUM_CLASSES)
    loss = hard_loss(logits_BC, labels, tail=tail, affinity=affinity)
    assert torch.equal(loss, F.cross_entropy(logits_BC, top_B))
    assert not torch.equal(top_B, labels.members[0].class_ids_BK[:, 0].long())


def test_an_ensemble_of_one_weight_is_that_teacher() -> None:
    labels, affinity = teachers(5)
    alone = EnsembleLabels(labels.members, torch.tensor([0.0, 1.0, 0.0]))
    logits_BC = torch.randn(NUM_VIEWS, NUM_CLASSES)
    for temperature in (1.0, 3.0):
        ours = soft_loss(logits_BC, alone, temperature=temperature, affinity=affinity)
        theirs = soft_loss(
            logits_BC, labels.members[1], temperature=temperature, affinity=affinity.members[1]
        )
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("tail", "problem"), [("bucket", "buckets differ"), ("affinity", "pass affinity")])
def test_tails_that_have_no_mean_are_refused(tail: str, problem: str) -> None:
    labels, _ = teachers(5)
    with pytest.raises(ValueError, match=problem):
        soft_loss(torch.zeros(NUM_VIEWS, NUM_CLASSES), labels, temperature=1.0, tail=tail)


@pytest.fixture(scope="module")
def second(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Labels of another teacher for some of the same views."""
    out = str(tmp_path_factory.mktemp("second") / "archive")
    words = extract_flags(data, out, teacher="python:own_teacher:build", checkpoint=None, topk=3, views="2:6")
    assert main([*words, "--allow-disagreement"]) == 0
    return out


def test_batches_bring_the_labels_of_each_archive(data: str, labels: str, second: str) -> None:
    views = LabelledViews(data, labels=[labels, second], label_weights=(3, 1), batch_size=5)
    archives = [open_labels(url) for url in (labels, second)]
    assert views.labels.views == [2]
    for workers in (0, 2):
        for batch in views.epoch(0, workers=workers):
            assert batch.labels.weights_A.tolist() == [0.75, 0.25]
            for ours, archive in zip(batch.labels.members, archives, strict=True):
                theirs = archive.lookup(batch.rows_B.numpy(), batch.views_B.numpy())
                assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    whole = views.labels.lookup(np.array([3]), np.array([2]))
    assert [len(one.class_ids_BK[0]) for one in whole.members] == [2, 3]


@pytest.mark.parametrize("distillation", ["hard", "soft"])
def test_a_student_of_two_archives(
    distillation: str, data: str, labels: str, second: str, tmp_path: Path, capsys: Capture
) -> None:
    words = ["train", f"--data={data}", f"--output={tmp_path / 'run'}", "--model=test_vit", "--device=cpu"]
    words += [f"--distillation={distillation}", "--batch-size=8", "--labels", labels, second]
    assert student([*words, "--steps=2"]) == 0, capsys.readouterr().err
    assert student([*words, "--steps=2", "--resume=auto", "--label-weights", "2", "1"]) == 2
    assert "label_weights" in capsys.readouterr().err
    moved = [word if word != second else labels for word in words]
    assert student([*moved, "--steps=2", f"--output={tmp_path / 'other'}"]) == 2
    assert "One teacher would count twice." in capsys.readouterr().err


def _other(flag: str) -> Callable[[str, Path], list[str]]:
    return lambda data, out: extract_flags(data, out, **{flag.partition("=")[0]: flag.partition("=")[2]})


@pytest.mark.parametrize(
    ("flag", "problem"), [("img_size=40", "is of recipe"), ("recipe=rrc", "is of recipe")]
)
def test_archives_of_other_views_are_refused(
    flag: str, problem: str, data: str, labels: str, tmp_path: Path
) -> None:
    assert main(_other(flag)(data, tmp_path / "other")) == 0
    with pytest.raises(ArchiveError, match=problem):
        open_any(LabelPlaces([labels, str(tmp_path / "other")]))


def test_archives_of_another_dataset_are_refused(folders: Path, labels: str, tmp_path: Path) -> None:
    other = str(tmp_path / "packed")
    assert main(["pack", str(folders), other, "--shard-size=8", "--seed=5"]) == 0
    assert main(extract_flags(other, tmp_path / "other")) == 0
    with pytest.raises(ArchiveError, match="is of dataset"):
        open_any(LabelPlaces([labels, str(tmp_path / "other")]))


@pytest.mark.parametrize("weights", [(1,), (1, 0), (1, -1), (1, float("inf")), (1, 1, 1)])
def test_weights_that_do_not_fit_are_refused(weights: tuple, labels: str, second: str) -> None:
    with pytest.raises(InputError, match="--label-weights"):
        LabelEnsemble([open_labels(labels), open_labels(second)], weights)


def test_weights_of_one_archive_are_refused(labels: str) -> None:
    with pytest.raises(InputError, match="nothing to weigh"):
        open_any(LabelPlaces([labels], weights=(1.0,)))


def test_classes_of_nearly_no_probability_keep_their_logits_at_a_high_temperature() -> None:
    label = labels_from_logits(torch.tensor([[0.0, -120.0, -125.0]]), 3)
    both = EnsembleLabels((label, label), torch.tensor([0.5, 0.5]))
    logits_BC = torch.tensor([[1.0, 2.0, 3.0]])
    ours, theirs = (soft_loss(logits_BC, one, temperature=20.0) for one in (both, label))
    torch.testing.assert_close(ours, theirs)


def test_archives_without_a_common_view_and_views_without_archives_are_refused(
    data: str, labels: str, tmp_path: Path
) -> None:
    words = extract_flags(
        data, tmp_path / "other", teacher="python:own_teacher:build", checkpoint=None, views="4:6"
    )
    assert main([*words, "--allow-disagreement"]) == 0
    with pytest.raises(ArchiveError, match=r"no view is in all 2 archives: .* 0:3, .* 4:6"):
        open_any(LabelPlaces([labels, str(tmp_path / "other")]))
    with pytest.raises(InputError, match="not clear whether there is a teacher"):
        LabelledViews(data, labels=[], batch_size=4)
    with pytest.raises(InputError, match="nothing to weigh"):
        LabelledViews(data, labels=open_labels(labels), label_weights=(1,), batch_size=4)

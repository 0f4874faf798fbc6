"""The loss of a batch against its formula."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from timm.data.mixup import one_hot
from timm.loss import SoftTargetCrossEntropy

from student.losses import distillation_loss
from student.model import Heads
from student.terms import Objective
from teacher_cache.batches.batch import Targets
from teacher_cache.labels.losses import hard_loss, soft_loss
from teacher_cache.labels.topk import labels_from_logits

B, C = 6, 12


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(B, C, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("two_heads", [False, True])
def test_terms_act_on_their_heads(kind: str, two_heads: bool) -> None:
    heads = Heads(logits(1), logits(2) if two_heads else None)
    labels, targets_B = labels_from_logits(logits(0), 4), torch.arange(B)
    objective = Objective(kind, alpha=0.3, tau=2.0, smoothing=0.1, tail="uniform")
    loss = distillation_loss(heads, Targets(targets_B, targets_B, None), labels, objective)
    label = F.cross_entropy(logits(1), targets_B, label_smoothing=0.1)
    of_student = logits(2) if two_heads else logits(1)
    soft = soft_loss(of_student, labels, temperature=2.0, tail="uniform")
    term = hard_loss(of_student, labels) if kind == "hard" else soft
    torch.testing.assert_close(loss.total, 0.7 * label + 0.3 * term)
    torch.testing.assert_close(torch.stack([loss.label, loss.distillation]), torch.stack([label, term]))


def test_without_a_teacher_both_heads_learn_the_true_labels() -> None:
    targets_B = torch.arange(B)
    losses = [F.cross_entropy(logits(seed), targets_B) for seed in (1, 2)]
    for heads, expected in (
        (Heads(logits(1), None), losses[0]),
        (Heads(logits(1), logits(2)), (losses[0] + losses[1]) / 2),
    ):
        found = distillation_loss(heads, Targets(targets_B, targets_B, None), None, Objective())
        torch.testing.assert_close(found.total, expected)


def test_the_target_of_a_mixed_view_is_mixed_as_timm_mixes_it() -> None:
    own_B, partner_B = torch.arange(B), torch.arange(B).flip(0) + 1
    weight_B = torch.linspace(0.1, 1.0, B)
    found = Targets(own_B, partner_B, weight_B).cross_entropy(logits(1), smoothing=0.1)
    dense_BC = weight_B[:, None] * one_hot(own_B, C, 0.9 + 0.1 / C, 0.1 / C)
    dense_BC += (1 - weight_B)[:, None] * one_hot(partner_B, C, 0.9 + 0.1 / C, 0.1 / C)
    torch.testing.assert_close(found, SoftTargetCrossEntropy()(logits(1), dense_BC))

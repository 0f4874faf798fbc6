"""Label: the teacher's sparse output for one view, or several teachers', and the meaning of its numbers.

Shapes: B views, K classes kept, C classes in all, A teachers, M directions, R of them with codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import torch


class Labels(NamedTuple):
    """Labels of B views: the top-k classes, their relative logits, and the mass outside them.

    The probability of a kept class is (1 - tail) * softmax(relative_logits)[rank], at temperature 1.

    Attributes:
        class_ids_BK: Class ids by falling probability, int32; of equal logits the lower class id is first.
        relative_logits_BK: Logit minus the largest logit, float32: 0 at rank 0 and never positive.
        tail_B: Probability outside the top k, float32: 1 minus the sum of the top k; 0 when K is C.
    """

    class_ids_BK: torch.Tensor
    relative_logits_BK: torch.Tensor
    tail_B: torch.Tensor

    def log_probabilities(self) -> torch.Tensor:
        """Return the log-probabilities of the kept classes, float32 (B, K)."""
        return _log_probabilities(self)

    def probabilities(self) -> torch.Tensor:
        """Return the probabilities of the kept classes, float32 (B, K)."""
        return self.log_probabilities().exp()

    def to(self, device: torch.device | str) -> Labels:
        """Return the same labels on `device`; copies from pinned memory are asynchronous."""
        return Labels(*(tensor.to(device, non_blocking=True) for tensor in self))


class CodedLabels(NamedTuple):
    """Labels of B views that also hold codes, which keep the shape of their tails (labels/components.py).

    Attributes:
        class_ids_BK, relative_logits_BK, tail_B: As in Labels.
        codes_BR: Codes in the basis of the archive, int8.
    """

    class_ids_BK: torch.Tensor
    relative_logits_BK: torch.Tensor
    tail_B: torch.Tensor
    codes_BR: torch.Tensor

    def log_probabilities(self) -> torch.Tensor:
        """Return the log-probabilities of the kept classes, float32 (B, K)."""
        return _log_probabilities(self)

    def probabilities(self) -> torch.Tensor:
        """Return the probabilities of the kept classes, float32 (B, K)."""
        return self.log_probabilities().exp()

    def to(self, device: torch.device | str) -> CodedLabels:
        """Return the same labels on `device`; copies from pinned memory are asynchronous."""
        return CodedLabels(*(tensor.to(device, non_blocking=True) for tensor in self))


def _log_probabilities(labels: OneLabels) -> torch.Tensor:
    return labels.relative_logits_BK.log_softmax(1) + (-labels.tail_B).log1p()[:, None]


class Basis(NamedTuple):
    """Directions that the codes of an archive's labels are written in (labels/components.py).

    Attributes:
        mean_C: Mean of centred log-probabilities.
        directions_MC: Unit vectors, those with codes first.
        step_R: Nats per code.
        error_M: Variance that codes leave in each direction.
        noise: Variance per class that no direction explains, a scalar.
    """

    mean_C: torch.Tensor
    directions_MC: torch.Tensor
    step_R: torch.Tensor
    error_M: torch.Tensor
    noise: torch.Tensor

    def to(self, device: torch.device | str) -> Basis:
        """Return the same basis on `device`."""
        return Basis(*(tensor.to(device) for tensor in self))


class EnsembleLabels(NamedTuple):
    """Labels of the same B views by several teachers, taught by the mean of their probabilities.

    Attributes:
        members: Labels of each teacher.
        weights_A: Weights of the teachers in the mean, float32 of sum 1.
    """

    members: tuple[OneLabels, ...]
    weights_A: torch.Tensor

    def to(self, device: torch.device | str) -> EnsembleLabels:
        """Return the same labels on `device`; copies from pinned memory are asynchronous."""
        members = tuple(labels.to(device) for labels in self.members)
        return EnsembleLabels(members, self.weights_A.to(device, non_blocking=True))


class EnsembleAffinity(NamedTuple):
    """Class affinities of several archives.

    Attributes:
        members: Class affinity or basis of each archive; None for labels without tails.
    """

    members: tuple[OneAffinity, ...]

    def to(self, device: torch.device | str) -> EnsembleAffinity:
        """Return the same affinities on `device`."""
        return EnsembleAffinity(tuple(None if one is None else one.to(device) for one in self.members))


OneLabels: TypeAlias = Labels | CodedLabels
"""Labels of one teacher."""
AnyLabels: TypeAlias = OneLabels | EnsembleLabels
OneAffinity: TypeAlias = Labels | Basis | None
"""What an archive holds once to spread the tails of its labels: a class affinity, a basis, or nothing."""
AnyAffinity: TypeAlias = OneAffinity | EnsembleAffinity


def labels_from_logits(logits_BC: torch.Tensor, k: int) -> Labels:
    """Return labels with the k most probable classes of dense logits, on the device of the logits.

    A stable sort, not torch.topk, decides ties: bfloat16 logits tie often, and torch.topk leaves the order of
    ties open. The tail is the sum over the dropped classes, not 1 minus the kept ones, so a tiny tail keeps
    its relative precision.

    Args:
        logits_BC: Output of the teacher, of any float type; the computation uses float32.
        k: Number of classes to keep, 1 to C.
    """
    logits_BC = logits_BC.detach()
    sorted_BC, class_ids_BC = logits_BC.float().sort(dim=1, descending=True, stable=True)
    relative_BC = sorted_BC - sorted_BC[:, :1]
    mass_BC = relative_BC.exp()
    tail_B = mass_BC[:, k:].sum(1) / mass_BC.sum(1)
    return Labels(class_ids_BC[:, :k].int(), relative_BC[:, :k].contiguous(), tail_B)

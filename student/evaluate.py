"""Accuracy of each head of a model, and of both heads together."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from student.model import HEADS, Heads, evaluation_heads
from student.ranks import Ranks
from teacher_cache import PackedDataset
from teacher_cache.stream.plan import StreamPlan, ViewSchedule
from teacher_cache.stream.stream import ViewStream
from teacher_cache.views.finish import normalize
from teacher_cache.views.recipe import evaluation


def predictions(heads: Heads) -> dict[str, torch.Tensor]:
    """Return the predicted classes (B,) of each head, and of both heads together, by name.

    both_softmax adds the heads' softmax outputs (the paper, section 4, "late fusion"); both_logits averages
    their logits, as DeiT's code and timm do; published accuracies are those of both_logits.
    """
    first_BC, second_BC = heads
    if second_BC is None:
        return {"class": first_BC.argmax(1)}
    fused_BC = first_BC.softmax(1) + second_BC.softmax(1)
    scores = (first_BC, second_BC, fused_BC, first_BC + second_BC)
    return {name: scores_BC.argmax(1) for name, scores_BC in zip(HEADS, scores, strict=True)}


def main_head(by_head: Mapping[str, float]) -> float:
    """Return the accuracy by which weights are compared: both_softmax, or that of the only head."""
    return by_head.get("both_softmax", by_head["class"])


def evaluation_stream(
    dataset: PackedDataset, *, img_size: int, crop_pct: float, batch_size: int, ranks: Ranks
) -> ViewStream:
    """Return the stream of a dataset's evaluation views, each image once among the processes of a run."""
    plan = StreamPlan(
        len(dataset),
        dataset.info.samples_per_shard,
        min(batch_size, -(-len(dataset) // ranks.world_size)),
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    recipe = evaluation(img_size, crop_pct)
    return ViewStream(dataset, recipe, plan, ViewSchedule(), num_batches=plan.batches_per_epoch)


@torch.inference_mode()
def accuracy(
    model: torch.nn.Module,
    stream: ViewStream,
    *,
    num_images: int,
    ranks: Ranks,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    workers: int,
) -> dict[str, float]:
    """Return the share of a dataset's images that each head of the model gets right, by head.

    Each process of a run must call this with its own part of the stream, and gets the whole result.
    """
    was_training = model.training
    model.eval()
    correct: dict[str, torch.Tensor] = {}
    for batch in stream.loader(workers):
        inputs_BCHW = normalize(batch.pixels(ranks.device), mean, std)
        for head, classes_B in predictions(evaluation_heads(model, inputs_BCHW)).items():
            hits = (classes_B == batch.targets.own_B.to(ranks.device)).sum()
            correct[head] = correct.get(head, torch.zeros_like(hits)) + hits
    model.train(was_training)
    return {head: ranks.sum(hits).item() / num_images for head, hits in correct.items()}

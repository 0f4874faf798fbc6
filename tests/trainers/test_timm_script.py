"""What timm's script asks of a loader and a task, beside the losses that tests/contracts/ compares."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

from teacher_cache import LabelledViews, StoredDistillationTask, TimmLoader, hard_loss, soft_loss
from teacher_cache.errors import InputError

STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def student() -> torch.nn.Module:
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}
    return timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, **size)


def test_a_loader_has_what_train_py_asks_of_its_own(data: str, labels: str) -> None:
    views = LabelledViews(data, labels=labels, batch_size=8)
    loader = TimmLoader(views, **STATISTICS, img_dtype=torch.bfloat16)
    loader.dataset.set_epoch(1)
    assert (loader.sampler, loader.batch_sampler, loader.mixup_enabled) == (None, None, False)
    batches = list(loader)
    assert len(batches) == len(loader) == 4
    for inputs_BCHW, target in batches:
        assert (inputs_BCHW.shape, inputs_BCHW.dtype) == ((8, 3, 32, 32), torch.bfloat16)
        assert target.batch.views_B.tolist() == [1] * 8
        assert target.to(device=torch.device("cpu"), non_blocking=True).labels is not None


@pytest.mark.parametrize("distill_type", ["hard", "soft"])
def test_the_distillation_head_learns_from_the_teacher(distill_type: str, data: str, labels: str) -> None:
    views = LabelledViews(data, labels=labels, batch_size=8)
    model = student()
    task = StoredDistillationTask(
        model, distill_type=distill_type, task_loss_weight=0.3, temperature=2.0, affinity=views.affinity
    )
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1)
    inputs_BCHW, target = next(iter(TimmLoader(views, **STATISTICS)))
    found = task(inputs_BCHW, target)
    class_BC, taught_BC = model(inputs_BCHW)
    label = target.targets.cross_entropy(class_BC)
    if distill_type == "hard":
        taught = hard_loss(taught_BC, target.labels)
    else:
        taught = soft_loss(taught_BC, target.labels, temperature=2.0, affinity=views.affinity)
    torch.testing.assert_close(found["task_loss"], label)
    torch.testing.assert_close(found["distill_loss"], taught)
    torch.testing.assert_close(found["loss"], 0.3 * label + 0.7 * taught)
    found["loss"].backward()
    optimizer.step()


def test_images_without_labels_teach_by_the_teacher_alone(data: str, labels: str) -> None:
    views = LabelledViews(data, labels=labels, batch_size=8)
    inputs_BCHW, target = next(iter(TimmLoader(views, **STATISTICS)))
    target.targets = target.targets._replace(own_B=torch.full((8,), -1))
    found = StoredDistillationTask(student(), task_loss_weight=0.0)(inputs_BCHW, target)
    assert torch.equal(found["loss"], found["distill_loss"])


def test_wrong_use_is_refused(data: str) -> None:
    with pytest.raises(InputError, match="distill_type 'logit'"):
        StoredDistillationTask(student(), distill_type="logit")  # type: ignore[arg-type]
    views = LabelledViews(data, batch_size=8, recipe="rrc", img_size=32)
    with pytest.raises(InputError, match="views without labels"):
        StoredDistillationTask(student())(*next(iter(TimmLoader(views, **STATISTICS))))

"""Teacher labels for knowledge distillation: computed once, stored, shared, and replayed exactly.

The names below are public; everything else is private. They are imported when they are first used, so that
importing the package is light.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teacher_cache.archive.open import open_labels as open_labels
    from teacher_cache.batches.batch import ViewBatch as ViewBatch
    from teacher_cache.dataset.shards import PackedDataset as PackedDataset
    from teacher_cache.errors import TeacherCacheError as TeacherCacheError
    from teacher_cache.labels.losses import hard_loss as hard_loss
    from teacher_cache.labels.losses import soft_loss as soft_loss
    from teacher_cache.labels.topk import Labels as Labels
    from teacher_cache.models.teacher_model import TeacherModel as TeacherModel
    from teacher_cache.sharing.client import Client as Client
    from teacher_cache.stream.labelled_views import LabelledViews as LabelledViews
    from teacher_cache.trainers.hf_loader import TrainerLoader as TrainerLoader
    from teacher_cache.trainers.lightning_data import LabelledDataModule as LabelledDataModule
    from teacher_cache.trainers.timm_script import StoredDistillationTask as StoredDistillationTask
    from teacher_cache.trainers.timm_script import TimmLoader as TimmLoader
    from teacher_cache.trainers.wandb_artifact import labels_artifact as labels_artifact
    from teacher_cache.views.one_view import render as render
    from teacher_cache.views.recipe import Recipe as Recipe
    from teacher_cache.views.recipe import load_recipe as load_recipe

    __version__: str

_PUBLIC = {
    "Client": "teacher_cache.sharing.client:Client",
    "LabelledDataModule": "teacher_cache.trainers.lightning_data:LabelledDataModule",
    "LabelledViews": "teacher_cache.stream.labelled_views:LabelledViews",
    "Labels": "teacher_cache.labels.topk:Labels",
    "PackedDataset": "teacher_cache.dataset.shards:PackedDataset",
    "Recipe": "teacher_cache.views.recipe:Recipe",
    "StoredDistillationTask": "teacher_cache.trainers.timm_script:StoredDistillationTask",
    "TeacherCacheError": "teacher_cache.errors:TeacherCacheError",
    "TeacherModel": "teacher_cache.models.teacher_model:TeacherModel",
    "TimmLoader": "teacher_cache.trainers.timm_script:TimmLoader",
    "TrainerLoader": "teacher_cache.trainers.hf_loader:TrainerLoader",
    "ViewBatch": "teacher_cache.batches.batch:ViewBatch",
    "hard_loss": "teacher_cache.labels.losses:hard_loss",
    "labels_artifact": "teacher_cache.trainers.wandb_artifact:labels_artifact",
    "load_recipe": "teacher_cache.views.recipe:load_recipe",
    "open_labels": "teacher_cache.archive.open:open_labels",
    "render": "teacher_cache.views.one_view:render",
    "soft_loss": "teacher_cache.labels.losses:soft_loss",
}

__all__ = ["__version__", *_PUBLIC]  # they are text


def __getattr__(name: str) -> Any:
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("teacher-cache")
    if name in _PUBLIC:
        return pkgutil.resolve_name(_PUBLIC[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

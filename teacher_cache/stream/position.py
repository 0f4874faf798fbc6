"""Position of a run in its stream, with what it counts in, so that a resumed run sees each sample once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from teacher_cache.errors import InputError
from teacher_cache.stream.plan import StreamPlan

State: TypeAlias = dict[str, int | str]
"""State as a trainer saves it: plain values by name."""


def state_at(batches: int, plan: StreamPlan, identity: Mapping[str, int | str]) -> State:
    """Return the state after some batches of a process.

    Args:
        batches: Batches yielded so far, over all epochs.
        identity: Values that must be the same when the run is resumed, such as the digest of the dataset.
    """
    epoch, of_epoch = divmod(batches, plan.batches_per_epoch)
    samples = of_epoch * plan.global_batch_size
    return {"batches": batches, "epoch": epoch, "samples": samples, **_counting(plan), **identity}


def batches_at(state: Mapping[str, int | str], plan: StreamPlan, identity: Mapping[str, int | str]) -> int:
    """Return the batches that a process of `plan` has behind it at a saved position.

    The samples of an epoch have one order for any batch size and number of processes, so a position in
    samples is valid for others if it lies between two of their batches.

    Args:
        state: Result of `state_at`; one with "batches" alone, from an adapter or of before, is not checked.
        identity: Values of this run, as `state_at` takes them.

    Raises:
        InputError: The state is of another dataset, other labels or another seed; or its position lies
            within a batch of this run.
    """
    batches = _whole(state, "batches")
    if "samples" not in state:
        return batches
    here = {**identity, "views_per_load": plan.views_per_load}
    differing = [name for name in here if state.get(name) != here[name]]
    if differing:
        said = "; ".join(f"{name}: {state.get(name)} then, {here[name]} now" for name in differing)
        raise InputError(
            f"the saved position is of another run: {said}",
            "Samples would be left out, or seen twice.",
            "resume with the data, labels and seed that the run was started with",
        )
    if all(state.get(name) == value for name, value in _counting(plan).items()):
        return batches
    epoch, samples = _whole(state, "epoch"), _whole(state, "samples")
    rest = samples % plan.global_batch_size if plan.views_per_load == 1 else samples
    if rest or epoch % plan.views_per_load:
        raise InputError(
            f"the saved position is {samples:,} samples into epoch {epoch}, counted in batches of "
            f"{state.get('batch_size')} in {state.get('world_size')} processes; this run has batches of "
            f"{plan.batch_size} in {plan.world_size}",
            "The position lies within a batch of this run, or within views that are rendered together: "
            "samples would be left out, or seen twice.",
            "resume with the batch size and processes of before, or with batches that end at that sample",
        )
    return epoch * plan.batches_per_epoch + samples // plan.global_batch_size


def _counting(plan: StreamPlan) -> State:
    """Return the values that give the number of a batch its meaning."""
    return {
        "batch_size": plan.batch_size,
        "world_size": plan.world_size,
        "views_per_load": plan.views_per_load,
        "drop_last": int(plan.drop_last),
    }


def _whole(state: Mapping[str, int | str], name: str) -> int:
    value = state.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(
            f"the saved position has {name} {value!r}",
            "It does not say where to go on.",
            "pass what state_dict returned, as it was",
        )
    return value

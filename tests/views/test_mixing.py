import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from timm.data.mixup import Mixup, cutmix_bbox_and_lam

from teacher_cache.views.mixing import (
    ROWS_PER_RING,
    UNMIXED,
    VIEWS_PER_RING,
    Mixing,
    partners_in_ring,
    ring_bounds,
    sample_mix,
)
from teacher_cache.views.recipe import HorizontalFlip, MixupCutmix, RandomResizedCrop, Recipe, deit

DRAWS = 20_000


def recipe_of(img_size: int = 224, **fields: float) -> Recipe:
    return Recipe("mixed", img_size, (RandomResizedCrop(), HorizontalFlip(), MixupCutmix(**fields)))


def mixing_of(num_rows: int, rows_per_shard: int, block_rows: int = 256) -> Mixing:
    return Mixing(recipe_of(block_rows=block_rows), "key-{:07d}".format, num_rows, rows_per_shard)


@given(st.integers(1, 40), st.integers(0, 100))
def test_partners_in_a_ring_are_mutual_and_one_at_most_is_alone(size: int, round_number: int) -> None:
    partners = partners_in_ring(size, round_number)
    assert partners[partners].tolist() == list(range(size))
    assert int((partners == np.arange(size)).sum()) == size % 2


def test_in_a_full_ring_every_round_has_other_partners() -> None:
    rounds = np.stack([partners_in_ring(ROWS_PER_RING, number) for number in range(VIEWS_PER_RING)])
    assert all(len(set(column)) == VIEWS_PER_RING for column in rounds.T.tolist())


@given(st.integers(1, 2000))
def test_rings_are_nearly_equal_and_even_but_for_the_last(count: int) -> None:
    sizes = np.diff(ring_bounds(count))
    assert sizes.sum() == count
    assert 1 <= sizes.min() <= sizes.max() <= min(ROWS_PER_RING, sizes.min() + 3)
    assert not (sizes[:-1] % 2).any()


@given(
    num_rows=st.integers(1, 300),
    rows_per_shard=st.integers(1, 100),
    block_rows=st.integers(2, 70),
    view=st.integers(0, 40),
)
def test_pairing_is_an_involution_inside_every_block(
    num_rows: int, rows_per_shard: int, block_rows: int, view: int
) -> None:
    mixing = mixing_of(num_rows, rows_per_shard, block_rows)
    rows = np.arange(num_rows)
    partners = mixing.partners(rows, view)
    assert mixing.partners(partners, view).tolist() == rows.tolist()
    blocks = [(row // rows_per_shard, row % rows_per_shard // block_rows) for row in range(num_rows)]
    assert [blocks[partner] for partner in partners] == blocks
    alone = [blocks[row] for row in rows[partners == rows]]
    assert all(alone.count(block) == blocks.count(block) % 2 for block in set(blocks))


def test_a_partner_depends_on_nothing_but_row_and_view() -> None:
    mixing = mixing_of(1000, 300)
    together = mixing.partners(np.arange(1000), 7)
    shuffled = np.random.default_rng(0).permutation(1000)[:100]
    assert mixing.partners(shuffled, 7).tolist() == together[shuffled].tolist()
    assert mixing_of(1000, 300).partners(np.array([5]), 7)[0] == together[5]


def test_partners_are_pinned() -> None:
    assert mixing_of(100, 40).partners(np.arange(6), 3).tolist() == [27, 32, 31, 14, 19, 26]


def test_rings_hold_what_is_mixed_in_all_their_views() -> None:
    mixing = mixing_of(1000, 400)
    for ring in mixing.rings(range(400, 800), 13):
        for view in range(VIEWS_PER_RING, 2 * VIEWS_PER_RING):
            assert set(mixing.partners(ring, view).tolist()) == set(ring.tolist())


def test_over_many_views_a_row_meets_most_of_its_block() -> None:
    mixing = mixing_of(256, 256)
    met = {int(mixing.partners(np.array([17]), view)[0]) for view in range(300)}
    assert len(met) > 160  # 300 draws of 255 with 12 at a time all different: 180 on average


def test_a_view_is_mixed_with_itself_by_nothing() -> None:
    assert mixing_of(9, 9).mix(3, 3, 0) == UNMIXED


def test_a_pair_is_mixed_alike_from_both_sides() -> None:
    mixing = mixing_of(64, 64)
    partner = int(mixing.partners(np.array([5]), 2)[0])
    assert mixing.mix(5, partner, 2) == mixing.mix(partner, 5, 2)


@pytest.fixture(scope="module")
def theirs() -> dict[str, list[float]]:
    """timm's lambdas, one a pair, and its cutmix boxes."""
    np.random.seed(0)  # timm draws from it
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, mode="pair")
    shares, is_cutmix = mixup._params_per_elem(DRAWS)
    boxes, weights = [], []
    for share in shares[is_cutmix]:
        (top, bottom, left, right), weight = cutmix_bbox_and_lam((3, 224, 224), share)
        boxes.append((top, left, bottom - top, right - left))
        weights.append(weight)
    return {"mixup": shares[~is_cutmix].tolist(), "boxes": boxes, "cutmix": weights}


@pytest.fixture(scope="module")
def ours() -> list:
    return [sample_mix(deit(224), "key", view) for view in range(DRAWS)]


def test_mixup_shares_are_distributed_as_timms(ours: list, theirs: dict) -> None:
    found = [mix.blend for mix in ours if mix.box.height == 0 and mix.blend < 1]
    assert stats.ks_2samp(found, theirs["mixup"]).pvalue > 1e-3
    assert stats.kstest(found, stats.beta(0.8, 0.8).cdf).pvalue > 1e-3


def test_cutmix_weights_and_boxes_are_distributed_as_timms(ours: list, theirs: dict) -> None:
    found = [mix for mix in ours if mix.blend == 1]
    assert stats.ks_2samp([mix.weight for mix in found], theirs["cutmix"]).pvalue > 1e-3
    boxes = np.array([mix.box for mix in found])
    for place, name in enumerate(("top", "left", "height", "width")):
        assert stats.ks_2samp(boxes[:, place], [box[place] for box in theirs["boxes"]]).pvalue > 1e-3, name


def test_half_of_the_pairs_exchange_a_box(ours: list) -> None:
    assert stats.binomtest(sum(mix.blend == 1 for mix in ours), DRAWS, 0.5).pvalue > 1e-3


def test_a_box_lies_in_the_view_and_weighs_its_area(ours: list) -> None:
    for mix in ours:
        top, left, height, width = mix.box
        assert 0 <= top <= top + height <= 224
        assert 0 <= left <= left + width <= 224
        assert mix.weight == pytest.approx(mix.blend * (1 - height * width / 224**2))


@pytest.mark.parametrize(
    ("fields", "blends"),
    [({"mixup_alpha": 0.0}, {1.0}), ({"probability": 0.0}, {1.0})],
)
def test_what_is_off_never_happens(fields: dict, blends: set) -> None:
    mixes = [sample_mix(recipe_of(32, **fields), "key", view) for view in range(200)]
    assert {mix.blend for mix in mixes} == blends
    only_mixup = [sample_mix(recipe_of(32, cutmix_alpha=0.0), "key", view) for view in range(200)]
    assert all(mix.box.height == 0 for mix in only_mixup)

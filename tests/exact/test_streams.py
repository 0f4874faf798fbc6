"""Seeds and streams are promised to stay: the literals here may never change."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from teacher_cache.exact.streams import Purpose, RandomStream, permutation, sample_id, view_seed

RECIPE = "ab" * 32


def test_ids_and_seeds_are_pinned() -> None:
    assert sample_id("n01440764/tench") == 1309022485219534146
    assert view_seed(RECIPE, "n01440764/tench", 0) == 6244304645702904001
    assert view_seed(RECIPE, "n01440764/tench", 1) == 13148602160068625268


def test_purposes_are_pinned() -> None:
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "CROP": 1,
        "FLIP": 2,
        "OPS": 3,
        "ERASE": 4,
        "MIX": 5,
        "RING": 6,
        "ORDER": 16,
        "PACK": 17,
        "DROP": 18,
    }


def test_words_are_pinned() -> None:
    assert RandomStream((1, 2), Purpose.CROP).words(3).tolist() == [
        6322889474364269786,
        16763523446480756862,
        15034084018021393611,
    ]
    assert RandomStream((1, 2), Purpose.FLIP, (3, 4)).words(1).tolist() == [15293350248826363405]


@given(st.tuples(*[st.integers(0, (1 << 64) - 1)] * 4), st.integers(0, 70), st.sampled_from(Purpose))
def test_words_are_numpys_own_philox(words: tuple[int, int, int, int], count: int, purpose: Purpose) -> None:
    key, counter = words[:2], words[2:]
    theirs = np.random.Philox(
        key=np.array(key, np.uint64), counter=np.array([0, purpose, *counter], np.uint64)
    )
    assert RandomStream(key, purpose, counter).words(count).tolist() == theirs.random_raw(count).tolist()


def test_numbers_are_made_from_the_words() -> None:
    words = RandomStream((7, 8), Purpose.CROP).words(2).tolist()
    stream = RandomStream((7, 8), Purpose.CROP)
    assert stream.uniform(2.0, 4.0) == 2.0 + 2.0 * ((words[0] >> 11) / 2**53)
    assert stream.integer(1000) == words[1] * 1000 >> 64


def test_uniforms_are_uniform() -> None:
    draws = [
        RandomStream((view_seed(RECIPE, "key", view), 5), Purpose.CROP).uniform() for view in range(4000)
    ]
    assert stats.kstest(draws, "uniform").pvalue > 1e-3


@given(st.integers(1, 1 << 62), st.integers(0, 1 << 32))
def test_integers_stay_below_their_bound(stop: int, seed: int) -> None:
    assert 0 <= RandomStream((seed, 0), Purpose.CROP).integer(stop) < stop


def test_no_two_of_purpose_sample_view_and_recipe_share_a_stream() -> None:
    recipes, keys, views = (RECIPE, "cd" * 32), ("a", "b", "a/b", "aa"), range(4)
    firsts = {
        RandomStream((view_seed(recipe, key, view), sample_id(key)), purpose).words(1).item()
        for recipe, key, view, purpose in itertools.product(recipes, keys, views, Purpose)
    }
    assert len(firsts) == len(recipes) * len(keys) * len(views) * len(Purpose)


@pytest.mark.slow
def test_a_million_keys_have_a_million_ids() -> None:
    assert len({sample_id(f"train-{number:08d}") for number in range(1_000_000)}) == 1_000_000


@pytest.mark.slow
def test_a_million_views_of_neighbours_have_a_million_seeds() -> None:
    """Seeds that are a sum of seed, index and epoch collide at once: (0, 1) and (1, 0) are one."""
    seeds = {view_seed(RECIPE, f"{row}", view) for row in range(10_000) for view in range(100)}
    assert len(seeds) == 1_000_000


@pytest.mark.slow
def test_first_words_of_a_million_streams_are_all_different_and_uniform() -> None:
    purposes = tuple(Purpose)
    firsts = np.empty(1_000_000, np.uint64)
    for number in range(len(firsts)):
        row, rest = divmod(number, 40)
        view, place = divmod(rest, len(purposes))
        firsts[number] = RandomStream((view, row), purposes[place]).integer(1 << 64)
    assert len(np.unique(firsts)) == len(firsts)
    assert stats.kstest(firsts.astype(np.float64) / 2.0**64, "uniform").pvalue > 1e-3
    neighbours = firsts.astype(np.float64)
    assert abs(np.corrcoef(neighbours[:-1], neighbours[1:])[0, 1]) < 5 / np.sqrt(len(firsts))


def test_words_go_on_whatever_they_are_made_into() -> None:
    words = RandomStream((7, 8), Purpose.OPS).words(40).tolist()
    stream = RandomStream((7, 8), Purpose.OPS)
    drawn = [stream.integer(1 << 64) for _ in range(18)]
    drawn += stream.words(5).tolist()
    drawn += [stream.integer(1 << 64) for _ in range(17)]
    assert drawn == words


def test_octets_are_the_words_bytes_lowest_first() -> None:
    word = RandomStream((7, 8), Purpose.ERASE).words(2).tolist()
    expected = b"".join(value.to_bytes(8, "little") for value in word)[:11]
    assert RandomStream((7, 8), Purpose.ERASE).octets(11).tobytes() == expected


@pytest.mark.slow
def test_normals_and_betas_have_their_distributions_and_are_pinned() -> None:
    stream = RandomStream((3, 4), Purpose.MIX)
    assert stats.kstest([stream.normal() for _ in range(20_000)], "norm").pvalue > 1e-3
    for alpha in (0.2, 0.8, 1.0, 2.0):
        draws = [stream.beta(alpha) for _ in range(20_000)]
        assert stats.kstest(draws, stats.beta(alpha, alpha).cdf).pvalue > 1e-3, alpha
    first = RandomStream((1, 2), Purpose.MIX)
    assert [first.normal().hex(), first.beta(0.8).hex()] == ["-0x1.471fcf8d729fdp+1", "0x1.f71c0e4c53239p-1"]


@given(st.integers(0, 300), st.integers(0, 1 << 32))
def test_a_permutation_holds_each_number_once(count: int, seed: int) -> None:
    assert sorted(permutation(count, RandomStream((seed, 0), Purpose.ORDER)).tolist()) == list(range(count))


def test_words_outside_64_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="64-bit"):
        RandomStream((1 << 64, 0), Purpose.CROP).words(1)
    with pytest.raises(ValueError, match="64-bit"):
        RandomStream((0, 0), Purpose.CROP, (0, -1)).uniform()

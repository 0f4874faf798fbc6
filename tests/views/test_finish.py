import numpy as np
import pytest
import torch
from scipy import stats

from teacher_cache.exact.streams import Purpose, RandomStream
from teacher_cache.views.finish import finish, normalize
from teacher_cache.views.finishing import Finishing, erased_values
from teacher_cache.views.recipe_ops import IMAGENET_MEAN, IMAGENET_STD, RandomErasing

SIZE = 12


def images_of(count: int, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def finishing_of(count: int, **changes: torch.Tensor) -> Finishing:
    nothing = Finishing(
        erase_R4=torch.zeros(count, 4, dtype=torch.int32),
        erased_C256=torch.from_numpy(erased_values(RandomErasing())),
        partner_B=torch.arange(count),
        blend_B=torch.ones(count),
        box_B4=torch.zeros(count, 4, dtype=torch.int32),
        weight_B=torch.ones(count),
    )
    return nothing._replace(**changes)


def test_normalising_is_the_formula() -> None:
    images_BCHW = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    scaled = images_BCHW.double() / 255
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    for given in (images_BCHW, images_BCHW.float()):
        found = normalize(given, IMAGENET_MEAN, IMAGENET_STD)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), (scaled - mean) / std, rtol=0, atol=1e-6)
    assert torch.equal(given, images_BCHW.float())


@pytest.mark.parametrize("finishing", [None, finishing_of(3)])
def test_nothing_to_do_is_the_pixels(finishing: Finishing | None) -> None:
    found = finish(images_of(3), finishing)
    assert found.is_contiguous()
    assert torch.equal(found, images_of(3).float())


def test_erased_pixels_are_mean_and_noise_of_the_recipes_statistics() -> None:
    images = images_of(2)
    erase_R4 = torch.tensor([[0, 0, 0, 0], [2, 3, 4, 5]], dtype=torch.int32)
    found = finish(images, finishing_of(2, erase_R4=erase_R4))
    expected = images.double()
    for channel in range(3):
        for y in range(2, 6):
            for x in range(3, 8):
                quantile = stats.norm.ppf((images[1, channel, y, x].item() + 0.5) / 256)
                value = 255 * (IMAGENET_MEAN[channel] + IMAGENET_STD[channel] * quantile)
                expected[1, channel, y, x] = value
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-4)


def test_constant_erasing_is_the_mean_whatever_the_bytes() -> None:
    erase_R4 = torch.tensor([[0, 0, SIZE, SIZE]], dtype=torch.int32)
    values = torch.from_numpy(erased_values(RandomErasing(mode="const")))
    found = finish(images_of(1), finishing_of(1, erase_R4=erase_R4, erased_C256=values))
    assert normalize(found, IMAGENET_MEAN, IMAGENET_STD).abs().max() < 1e-6


def test_noise_is_standard_normal_as_timms() -> None:
    octets = RandomStream((1, 2), Purpose.ERASE, (1, 0)).octets(20_000)
    values = erased_values(RandomErasing(mean=(0, 0, 0), std=(1 / 255, 1, 1)))[0][octets.astype(int)]
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert values.astype(np.float64).std() == pytest.approx(1, abs=0.02)


def test_mixing_is_the_formula() -> None:
    images = images_of(3)
    finishing = finishing_of(
        2,
        erase_R4=torch.zeros(3, 4, dtype=torch.int32),
        partner_B=torch.tensor([2, 0]),
        blend_B=torch.tensor([0.3, 1.0]),
        box_B4=torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4]], dtype=torch.int32),
        weight_B=torch.tensor([0.3, 1 - 12 / SIZE**2]),
    )
    found = finish(images, finishing)
    assert found.shape == (2, 3, SIZE, SIZE)
    torch.testing.assert_close(found[0], 0.3 * images[0] + 0.7 * images[2])
    expected = images[1].float()
    expected[:, 1:4, 2:6] = images[0, :, 1:4, 2:6].float()
    assert torch.equal(found[1], expected)


def test_a_views_bits_do_not_depend_on_its_company() -> None:
    images = images_of(9)
    erase_R4 = torch.tensor([[n % 3, 1, 4 * (n % 2), 5] for n in range(9)], dtype=torch.int32)
    blend_B = torch.rand(9, generator=torch.Generator().manual_seed(0))
    together = finishing_of(
        9, erase_R4=erase_R4, partner_B=torch.arange(9).flip(0), blend_B=blend_B, weight_B=blend_B
    )
    whole = finish(images, together)
    for view in range(9):
        pair = torch.tensor([view, 8 - view])
        alone = finishing_of(
            1,
            erase_R4=erase_R4[pair],
            partner_B=torch.tensor([1]),
            blend_B=blend_B[view : view + 1],
            weight_B=blend_B[view : view + 1],
        )
        assert torch.equal(finish(images[pair], alone)[0], whole[view])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives() -> None:
    images = images_of(8)
    erase_R4 = torch.tensor([[n, 1, 4, 5] for n in range(8)], dtype=torch.int32)
    blend_B = torch.rand(8, generator=torch.Generator().manual_seed(0))
    finishing = finishing_of(
        8,
        erase_R4=erase_R4,
        partner_B=torch.arange(8).flip(0),
        blend_B=blend_B,
        box_B4=erase_R4.flip(0),
        weight_B=blend_B,
    )
    assert torch.equal(finish(images.cuda(), finishing).cpu(), finish(images, finishing))
    here = normalize(finish(images, finishing), IMAGENET_MEAN, IMAGENET_STD)
    there = normalize(finish(images.cuda(), finishing), IMAGENET_MEAN, IMAGENET_STD).cpu()
    torch.testing.assert_close(there, here, rtol=0, atol=1e-6)

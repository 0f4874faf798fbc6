import json
from pathlib import Path

import pytest
import timm
import torch
from support import IMG_SIZE, TEACHER, K, extract_flags, free_port, teacher_checkpoint, write_class_folders

from pipelines.cli import main as teacher_cache_main
from student.checkpoint import load_student
from student.cli import main
from student.config import TrainConfig
from student.evaluate import predictions
from student.model import Heads, as_heads, evaluation_heads, train_both_heads
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.models.create import create_model
from teacher_cache.program.commandline import parse

STUDENT = (
    "--model=deit_tiny_distilled_patch16_224",
    *("--model-kwargs", "patch_size=8", "embed_dim=48", "depth=2", "num_heads=3"),
)
STEPS = 9


def train(output: Path, data: str, *flags: str) -> list[dict]:
    """Train for a few steps, and return the lines of metrics.jsonl."""
    words = [
        "train",
        f"--data={data}",
        f"--output={output}",
        "--batch-size=8",
        f"--steps={STEPS}",
        *STUDENT,
        *flags,
    ]
    assert main(words) == 0
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(lines: list[dict]) -> list[float]:
    return [line["loss"] for line in lines if "step" in line]


LIVE = (
    *(f"--teacher={TEACHER}", f"--teacher-checkpoint={teacher_checkpoint()}"),
    *(f"--img-size={IMG_SIZE}", "--views=0:3"),
)


@pytest.mark.slow
def test_hard_cached_training_is_live_training(data: str, labels: str, tmp_path: Path) -> None:
    cached = losses(train(tmp_path / "cached", data, f"--labels={labels}", "--distillation=hard"))
    live = losses(train(tmp_path / "live", data, *LIVE, "--distillation=hard"))
    assert cached == live
    assert len(set(cached)) == STEPS


@pytest.mark.slow
def test_soft_cached_training_is_live_training_to_eight_bits(data: str, tmp_path: Path) -> None:
    assert teacher_cache_main(extract_flags(data, tmp_path / "all", topk=3)) == 0
    flags = ("--distillation=soft", "--distillation-tau=2", "--distillation-alpha=0.9")
    cached = losses(train(tmp_path / "cached", data, f"--labels={tmp_path / 'all'}", *flags))
    live = losses(train(tmp_path / "live", data, *LIVE, *flags))
    # a stored logit is off by 1/32 at most, which moves tau^2 KL by tau / 32 E|X - E X| to first order, X
    # being the log of teacher's over student's probability: less than half a nat over these 3 classes
    assert cached[0] == pytest.approx(live[0], abs=0.9 * 2 / 32 * 0.5)
    assert cached == pytest.approx(live, rel=5e-3)  # the steps drift apart from that first difference


@pytest.mark.slow
def test_the_same_run_twice_is_the_same_run(data: str, labels: str, tmp_path: Path) -> None:
    flags = (f"--labels={labels}", "--distillation=soft", "--drop-path=0.1")
    runs = [train(tmp_path / name, data, *flags) for name in ("one", "two")]
    assert losses(runs[0]) == losses(runs[1])
    weights = [(tmp_path / name / "last.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_workers_do_not_change_a_run(data: str, labels: str, tmp_path: Path) -> None:
    flags = (f"--labels={labels}", "--distillation=hard")
    alone = losses(train(tmp_path / "alone", data, *flags))
    assert losses(train(tmp_path / "workers", data, *flags, "--workers=2")) == alone


@pytest.mark.slow
def test_the_learning_rate_warms_up_and_falls(data: str, tmp_path: Path) -> None:
    lines = train(
        tmp_path / "run", data, f"--img-size={IMG_SIZE}", "--lr=0.01", "--steps=20", "--warmup-epochs=1"
    )
    rates = [line["lr"] for line in lines if "step" in line]
    assert rates[0] == pytest.approx(1e-6)
    assert max(rates) == pytest.approx(0.01, rel=0.1)
    assert rates.index(max(rates)) == 4
    assert rates[4:] == sorted(rates[4:], reverse=True)


@pytest.mark.slow
def test_any_timm_model_trains_and_becomes_a_teacher(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = (
        f"--img-size={IMG_SIZE}",
        "--model=regnety_002",
        "--model-kwargs",
        "drop_rate=0.1",
        "--model-ema",
    )
    lines = train(tmp_path / "teacher", data, *flags, f"--val-data={data}", "--crop-pct=1.0")
    assert set(lines[-1]["result"]["accuracy"]) == {"class"}
    assert {file.name for file in (tmp_path / "teacher").iterdir()} == {
        *("config.json", "metrics.jsonl", "last.safetensors", "ema.safetensors", "best.safetensors"),
        f"state-{STEPS:08d}.safetensors",
    }
    weights = tmp_path / "teacher" / "last.safetensors"
    assert (
        teacher_cache_main(
            extract_flags(data, tmp_path / "labels", teacher="regnety_002", checkpoint=weights, views="0:1")
        )
        == 0
    )
    train(tmp_path / "student", data, f"--labels={tmp_path / 'labels'}", "--distillation=hard")
    capsys.readouterr()
    checkpoint = tmp_path / "student" / "last.safetensors"
    assert main(["eval", f"--checkpoint={checkpoint}", f"--data={data}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"class", "distillation", "both_softmax", "both_logits"}
    assert all(0 <= share <= 1 for share in found.values())


def test_weights_load_in_plain_timm_and_give_the_same_logits(data: str, tmp_path: Path) -> None:
    train(tmp_path / "run", data, f"--img-size={IMG_SIZE}")
    file = str(tmp_path / "run" / "last.safetensors")
    plain = timm.create_model(
        "deit_tiny_distilled_patch16_224",
        checkpoint_path=file,
        num_classes=3,
        img_size=IMG_SIZE,
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
    ).eval()
    ours, about = load_student(file, PackedDataset(data).info.class_list)
    assert about["img_size"] == IMG_SIZE
    inputs_BCHW = torch.randn(2, 3, IMG_SIZE, IMG_SIZE)
    with torch.inference_mode():
        assert torch.equal(plain(inputs_BCHW), ours(inputs_BCHW))
        first_BC, second_BC = evaluation_heads(ours, inputs_BCHW)
        torch.testing.assert_close((first_BC + second_BC) / 2, plain(inputs_BCHW))


@pytest.mark.parametrize("name", ["efficientformer_l1", "levit_128s", "deit_tiny_distilled_patch16_224"])
def test_each_head_is_read_whatever_the_model_pools(name: str) -> None:
    model = create_model(name, num_classes=5, img_size=224)
    with torch.no_grad():
        for seed, head in enumerate((model.head, model.head_dist)):
            for parameter in head.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(seed))
    inputs_BCHW = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        heads = evaluation_heads(model, inputs_BCHW)
        assert heads.distillation_BC is not None
        assert not torch.equal(heads.class_BC, heads.distillation_BC)
        torch.testing.assert_close((heads.class_BC + heads.distillation_BC) / 2, model(inputs_BCHW))


def test_both_heads_train_only_where_there_are_two() -> None:
    inputs_BCHW = torch.zeros(2, 3, 32, 32)
    kwargs = {"patch_size": 16, "embed_dim": 48, "depth": 1, "num_heads": 3}
    for name, two in (("deit_tiny_distilled_patch16_224", True), ("deit_tiny_patch16_224", False)):
        model = create_model(name, num_classes=3, img_size=32, model_kwargs=kwargs)
        train_both_heads(model)
        heads = as_heads(model.train()(inputs_BCHW))
        assert (heads.distillation_BC is not None) == two


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("deit_tiny_distilled_patch16_224", 5_910_800),
        ("deit_small_distilled_patch16_224", 22_436_432),
        ("deit_base_distilled_patch16_224", 87_338_192),
        ("regnety_160", 83_590_140),
    ],
)
def test_parameter_counts_are_the_papers(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_late_fusion_is_named() -> None:
    first_BC = torch.tensor([[4.0, 0.0, 3.0]])
    second_BC = torch.tensor([[-4.0, 0.0, 2.0]])
    found = predictions(Heads(first_BC, second_BC))
    sums = first_BC.softmax(1) + second_BC.softmax(1)
    assert {head: classes.item() for head, classes in found.items()} == {
        "class": 0,
        "distillation": 2,
        "both_softmax": sums.argmax().item(),
        "both_logits": 2,
    }


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Packed datasets that are not the one labelled: of other classes, and of other images."""
    root = tmp_path_factory.mktemp("others")
    for name, per_class in (("other_classes", 11), ("other_images", 12)):
        write_class_folders(root / name, per_class)
    (root / "other_classes" / "cat").rename(root / "other_classes" / "cow")
    for name in ("other_classes", "other_images"):
        assert teacher_cache_main(["pack", str(root / name), str(root / f"packed_{name}")]) == 0
    return {name: str(root / f"packed_{name}") for name in ("other_classes", "other_images")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--distillation=hard",), "No teacher is given"),
        (("--labels={labels}",), "The teacher would not be used"),
        (("--labels={labels}", "--teacher=regnety_002", "--distillation=hard"), "A run has one teacher"),
        (("--labels={labels}", "--distillation=hard", "--views=0:9"), "holds views 0:3, not 3:9"),
        (("--batch-size=0",), "--batch-size 0"),
        (("--batch-size=999",), "An epoch would have no batch"),
        (("--distillation-tau=0",), "--distillation-tau 0"),
        (("--smoothing=2",), "--smoothing 2"),
        (("--model=deit_tinny_patch16_224",), "nearest: deit_tiny_patch16_224"),
        (("--model-kwargs", "depths=3"), "does not take"),
        (("--data={labels}",), "has no dataset.json"),
        (("--recipe=rcc",), "unknown recipe 'rcc'"),
        (("--val-data=/nowhere",), "has no dataset.json"),
        (("--labels={labels}", "--distillation=hard", "--img-size=48"), "are those of the archive"),
        (("--labels={labels}", "--distillation=hard", "--recipe=rrc"), "are those of the archive"),
        (("--labels={labels}", "--distillation=hard", "--data={other_classes}"), "another class list"),
        (("--labels={labels}", "--distillation=hard", "--data={other_images}"), "dataset"),
        (("--distillation-token", "--model=regnety_002", "--model-kwargs", "drop_rate=0"), "only one head"),
        (("--views-per-load=3", "--views-together", "--views=0:3"), "a multiple of the views per load"),
        (("--views-per-load=4", "--views=0:3"), "4 views per load, of 3 views"),
        (("--kd-reduction=numel",), "Only the soft term is reduced"),
        (("--pretrained", "--finetune=x.safetensors"), "Training begins with one set of weights"),
        (("--finetune=/nowhere.safetensors",), "is not a file"),
        (("--torchcompile=inductr",), "nearest: inductor"),
        (("--precision=float16", *LIVE[:2], "--distillation=hard"), "A live teacher runs in float32"),
        (("--opt=adamww",), "timm has no optimizer"),
        (("--checkpoint-hist=0",), "--checkpoint-hist 0"),
        (("--grad-accum-steps=0",), "--grad-accum-steps 0"),
        (("--grad-accum-steps=2", "--batch-size=2", "--views-per-load=2"), "add --views-together"),
        (("--ray-ranks=2",), "without --ray"),
        (("--val-interval=2",), "There is nothing to evaluate on"),
        (("--teacher-checkpoint=x",), "--teacher-checkpoint without --teacher"),
        (("--lr=-1",), "--lr -1.0"),
        (("--lr=nan",), "--lr nan"),
        (("--clip-grad=0",), "--clip-grad 0.0"),
        (("--model-ema-decay=1",), "--model-ema-decay 1.0"),
        (("--opt=fusedadam",), "cannot be created"),
    ],
)
def test_a_wrong_request_is_said(
    flags: tuple[str, ...],
    message: str,
    data: str,
    labels: str,
    others: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    words = [flag.format(labels=labels, **others) for flag in flags]
    sized = [] if any("--labels" in word for word in words) else [f"--img-size={IMG_SIZE}"]
    base = [
        "train",
        f"--data={data}",
        f"--output={tmp_path / 'run'}",
        "--steps=1",
        "--batch-size=8",
        *STUDENT,
    ]
    assert main([*base, *sized, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_earlier_run_is_not_overwritten(data: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(tmp_path / "run", data, f"--img-size={IMG_SIZE}")
    assert main(["train", f"--data={data}", f"--output={tmp_path / 'run'}"]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_checkpoint_of_something_else_is_said(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    assert main(["eval", f"--checkpoint={tmp_path / 'x.safetensors'}", f"--data={data}"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_k_is_what_was_asked(labels: str) -> None:
    assert json.loads((Path(labels) / "spec.json").read_text())["spec"]["labels"]["k"] == K


def test_deits_own_flags_are_understood(data: str, labels: str, tmp_path: Path) -> None:
    theirs = ["--data-path", data, "--output_dir", str(tmp_path / "run"), "--distillation-type", "soft"]
    theirs += [
        "--distillation-alpha",
        "0.1",
        "--distillation-tau",
        "1.0",
        "--drop-path",
        "0.1",
        "--smoothing",
        "0.1",
    ]
    theirs += ["--weight-decay", "0.05", "--warmup-epochs", "1", "--clip-grad", "1", "--seed", "3"]
    found = parse(TrainConfig, [*theirs, "--labels", labels, "--model-ema"], "student train")
    assert (found.data, found.output, found.distillation) == (data, str(tmp_path / "run"), "soft")
    live = [
        "--data-path=a",
        "--output=b",
        "--teacher-model=regnety_160",
        "--teacher-path=c",
        "--input-size=32",
    ]
    found = parse(TrainConfig, [*live, "--distillation-type=hard"], "student train")
    assert (found.teacher, found.teacher_checkpoint, found.img_size) == ("regnety_160", "c", 32)


def test_one_head_learns_from_the_teacher_and_the_truth(data: str, labels: str, tmp_path: Path) -> None:
    """The paper's 'usual' distillation."""
    flags = (f"--labels={labels}", "--distillation=hard", f"--val-data={data}")
    lines = train(tmp_path / "run", data, *flags, "--model=deit_tiny_patch16_224")
    assert set(lines[-1]["result"]["accuracy"]) == {"class"}
    for line in lines[:STEPS]:
        assert line["loss"] == pytest.approx((line["loss_label"] + line["loss_distillation"]) / 2)


def test_the_soft_term_of_deits_code_is_a_share_of_the_papers(data: str, labels: str, tmp_path: Path) -> None:
    flags = (f"--labels={labels}", "--distillation=soft", "--steps=1")
    paper = train(tmp_path / "paper", data, *flags)[0]
    code = train(tmp_path / "code", data, *flags, "--kd-reduction=numel")[0]
    assert code["loss_distillation"] == pytest.approx(paper["loss_distillation"] / 3)  # of three classes
    assert code["loss"] == pytest.approx((code["loss_label"] + code["loss_distillation"]) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--torchcompile=aot_eager", "--precision=bfloat16", "--precision=float16"])
def test_other_arithmetic_is_nearly_the_same_run(flag: str, data: str, labels: str, tmp_path: Path) -> None:
    flags = (f"--labels={labels}", "--distillation=hard", "--steps=4")
    plain = losses(train(tmp_path / "plain", data, *flags))
    other = losses(train(tmp_path / "other", data, *flags, flag))
    assert other == pytest.approx(plain, rel=1e-5 if "compile" in flag else 2e-2)
    assert other != plain or "compile" in flag


def test_a_hub_that_cannot_be_reached_costs_no_weights(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_port()}")
    words = [
        "train",
        f"--data={data}",
        f"--output={tmp_path / 'run'}",
        "--steps=1",
        "--batch-size=8",
        *STUDENT,
    ]
    assert main([*words, f"--img-size={IMG_SIZE}", "--push-to-hub=team/student"]) == 1
    assert "team/student" in capsys.readouterr().err
    assert (tmp_path / "run" / "last.safetensors").exists()

"""What every kind of teacher promises, and what each of them has beside that."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from support import (
    CLASSES,
    IMG_SIZE,
    TIMM_TEACHER,
    built_teacher,
    extract_flags,
    picture,
    teacher_checkpoint,
    tree,
)

from pipelines.cli import main
from student.cli import main as student
from teacher_cache import PackedDataset, open_labels
from teacher_cache.batches.batch import view_batch
from teacher_cache.batches.pool import RenderPool
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.errors import ModelError, TeacherCacheError
from teacher_cache.labelling.unit import teacher_logits
from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.class_map import read_class_map
from teacher_cache.models.clip_teacher import read_prompts
from teacher_cache.models.kinds import KINDS
from teacher_cache.models.teacher import Teacher
from teacher_cache.views.recipe import load_recipe

Capture = pytest.CaptureFixture[str]
PET_CLASSES = ClassList(CLASSES)
STATISTICS = {"mean": (0.3, 0.4, 0.5), "std": (0.2, 0.25, 0.3)}


@dataclasses.dataclass(frozen=True)
class Given:
    """Arguments of `built_teacher` for a small teacher of a kind, and of one with other weights."""

    name: str
    options: dict[str, Any]
    other_name: str
    other_options: dict[str, Any]
    statistics: dict[str, tuple[float, ...]]

    def build(self, **changes: object) -> Teacher:
        options = {
            "classes": PET_CLASSES,
            "img_size": IMG_SIZE,
            **self.options,
        }
        return built_teacher(self.name, **{**options, **changes})

    def flags(self, data: str, out: Path) -> list[str]:
        return [
            *extract_flags(data, out, **{"teacher": self.name, "checkpoint": None}),
            *_words(self.options),
            "--allow-disagreement",
        ]

    @property
    def words(self) -> list[str]:
        return [f"--teacher={self.name}", *_words(self.options)]


def _words(options: dict[str, Any]) -> list[str]:
    """Return options of `built_teacher` as flags."""
    words = []
    for name, value in options.items():
        if name == "pretrained":
            words.append("--no-pretrained")
        elif name == "model_kwargs":
            words += ["--model-kwargs", *(f"{key}={argument}" for key, argument in value.items())]
        else:
            words.append(f"--{name.replace('_', '-')}={value}")
    return words


def save_hf(folder: Path, seed: int = 0, **changes: object) -> Path:
    """A small ViT with another size and other statistics than ImageNet's, as save_pretrained leaves it."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    names = dict(enumerate(CLASSES))
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(seed)
    config = ViTConfig(image_size=IMG_SIZE, patch_size=8, id2label=names, **small, initializer_range=0.5)
    ViTForImageClassification(config).save_pretrained(folder)
    size = {"height": IMG_SIZE, "width": IMG_SIZE}
    fields = {"image_mean": STATISTICS["mean"], "image_std": STATISTICS["std"], "size": size, **changes}
    ViTImageProcessor(**fields).save_pretrained(folder)
    return folder


CLIP_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": IMG_SIZE, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A small CLIP in the layout of the hub."""
    import open_clip

    torch.manual_seed(seed)
    model = open_clip.CLIP(**CLIP_CONFIG)
    folder.mkdir()
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    statistics = {name: list(values) for name, values in STATISTICS.items()}
    document = {"model_cfg": CLIP_CONFIG, "preprocess_cfg": statistics}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(params=sorted(KINDS))
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Given:
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    if request.param == "timm":
        own = {"checkpoint": teacher_checkpoint(TIMM_TEACHER)}
        return Given("timm:regnety_002", own, "timm:regnety_002", {"pretrained": False}, imagenet)
    if request.param == "hf":
        folders = [save_hf(tmp_path / f"vit{seed}", seed) for seed in range(2)]
        return Given(f"hf:{folders[0]}", {}, f"hf:{folders[1]}", {}, STATISTICS)
    if request.param == "clip":
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("a photo of a {}.\na drawing of the {}.\n")
        folders = [save_clip(tmp_path / f"clip{seed}", seed) for seed in range(2)]
        names = [f"clip:local-dir:{folder}" for folder in folders]
        return Given(names[0], {"prompts": str(prompts)}, names[1], {"prompts": str(prompts)}, STATISTICS)
    return Given(
        "python:own_teacher:build",
        {},
        "python:own_teacher:build",
        {"model_kwargs": {"seed": 1}},
        {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)},
    )


def pixels(count: int = 5, size: int = IMG_SIZE) -> torch.Tensor:
    images = [np.asarray(picture(seed, size, size)) for seed in range(count)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def test_a_digest_names_the_weights(given: Given) -> None:
    first, again = given.build().spec, given.build().spec
    assert first == again
    other = dataclasses.replace(given, name=given.other_name, options=given.other_options).build().spec
    assert other.weights_sha256 != first.weights_sha256
    assert (
        str(Path(given.name.rpartition(":")[2]).parent) not in json.dumps(first.to_dict())
        or "/" not in given.name
    )


def test_statistics_are_the_models_own(given: Given) -> None:
    teacher = given.build()
    assert teacher.spec.mean == pytest.approx(given.statistics["mean"])
    assert teacher.spec.std == pytest.approx(given.statistics["std"])


@pytest.mark.parametrize("size", [IMG_SIZE, 48])
def test_logits_are_float32_rows_of_the_datasets_classes(given: Given, size: int) -> None:
    teacher = given.build(img_size=size)
    logits_BC = teacher.logits(pixels(size=size))
    assert (*logits_BC.shape, logits_BC.dtype) == (5, len(CLASSES), torch.float32)
    assert teacher.spec.num_classes == len(CLASSES)
    assert logits_BC.std(0).min() > 0  # it tells images apart


def test_an_image_gives_its_own_row_wherever_it_is_in_a_batch(given: Given) -> None:
    teacher, images = given.build(), pixels()
    order = torch.tensor([3, 0, 4, 2, 1])
    whole = teacher.logits(images)
    torch.testing.assert_close(teacher.logits(images[order]), whole[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(teacher.logits(images[:1]), whole[:1], rtol=1e-5, atol=1e-5)
    assert torch.equal(teacher.logits(images), whole)


def test_precision_is_what_the_spec_says(given: Given) -> None:
    exact, rough = given.build(), given.build(precision="bfloat16")
    assert (exact.spec.precision, rough.spec.precision) == ("float32", "bfloat16")
    theirs, ours = rough.logits(pixels()), exact.logits(pixels())
    assert theirs.dtype == torch.float32
    assert 0 < (theirs - ours).abs().max() < 0.1 * ours.abs().max()


def test_logits_that_are_not_finite_are_refused(given: Given, dataset: PackedDataset) -> None:
    teacher = given.build()
    for parameter in teacher._model.parameters():
        parameter.data.fill_(float("nan"))
    renderer = BatchRenderer(dataset, load_recipe("eval", img_size=IMG_SIZE))
    loads = [[ViewIds(np.arange(2), np.zeros(2, np.int64))]]
    with pytest.raises(TeacherCacheError, match="of unit 3 are not all finite"):
        list(teacher_logits(RenderPool(renderer, 0), teacher, loads, what="unit 3"))


def test_an_archive_is_made_once_and_checked_with_the_teacher_that_is_named(
    given: Given, data: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "archive"
    assert main(given.flags(data, out)) == 0
    before = tree(out)
    assert main(given.flags(data, out)) == 0
    assert tree(out) == before
    check = ["verify", str(out), "--level=teacher", f"--data={data}"]
    assert main([*check, *given.words]) == 0
    is_timm = given.name.startswith("timm:")
    assert main([*check, *_words(given.options)]) == (0 if is_timm else 2)
    if not is_timm:
        assert "not where to load code or files from" in capsys.readouterr().err
    other = dataclasses.replace(given, name=given.other_name, options=given.other_options)
    assert main([*check, *other.words]) == 2
    assert "the teacher's weights are" in capsys.readouterr().err

    damaged = out / "labels.zarr/idx/c/1/0/0"
    damaged.write_bytes(b"bad")
    assert main(["repair", str(out), f"--data={data}", *given.words]) == 0
    assert tree(out) == before


@pytest.mark.parametrize("given", ["timm", "hf", "python"], indirect=True)
def test_another_number_of_classes_is_refused(given: Given) -> None:
    with pytest.raises(ModelError, match="classes|does not fit"):
        given.build(classes=ClassList((*CLASSES, "dog")))


@pytest.mark.parametrize("given", ["timm", "hf", "python"], indirect=True)
def test_a_permuted_class_map_permutes_the_labels(given: Given, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps([2, 0, 1]))
    mapped = given.build(class_map=str(tmp_path / "map.json"))
    assert torch.equal(mapped.logits(pixels()), given.build().logits(pixels())[:, [2, 0, 1]])
    assert mapped.spec.class_map_sha256 is not None
    assert mapped.spec.weights_sha256 == given.build().spec.weights_sha256


@pytest.mark.parametrize("given", ["timm", "hf", "python"], indirect=True)
def test_a_class_map_sums_probabilities_and_leaves_classes_out(given: Given, tmp_path: Path) -> None:
    own_BT = given.build().logits(pixels()).double().softmax(1)
    (tmp_path / "map.yaml").write_text("pet: [0, 2]\ninsect: 1\n")
    mapped = given.build(class_map=str(tmp_path / "map.yaml"), classes=ClassList(("insect", "pet")))
    by_hand = torch.stack([own_BT[:, 1], own_BT[:, 0] + own_BT[:, 2]], 1)
    torch.testing.assert_close(mapped.logits(pixels()).double().softmax(1), by_hand, rtol=1e-5, atol=1e-7)

    (tmp_path / "subset.yaml").write_text("[2, 0]")
    subset = given.build(class_map=str(tmp_path / "subset.yaml"), classes=ClassList(("x", "y")))
    by_hand = own_BT[:, [2, 0]] / own_BT[:, [2, 0]].sum(1, keepdim=True)
    torch.testing.assert_close(subset.logits(pixels()).double().softmax(1), by_hand, rtol=1e-5, atol=1e-7)


def test_a_class_map_reaches_the_archive(data: str, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps({"bee": "Ant", "cat": "bee", "ant": ["cat"]}))
    teacher = {"teacher": f"hf:{save_hf(tmp_path / 'vit')}", "checkpoint": None, "topk": 3}
    plain, mapped = (
        extract_flags(data, tmp_path / "plain", **teacher),
        [
            *extract_flags(data, tmp_path / "mapped", **teacher),
            f"--class-map={tmp_path / 'map.json'}",
        ],
    )
    assert main([*plain, "--allow-disagreement"]) == main([*mapped, "--allow-disagreement"]) == 0
    ours, theirs = open_labels(str(tmp_path / "mapped")), open_labels(str(tmp_path / "plain"))
    assert ours.spec.fingerprint != theirs.spec.fingerprint
    moved, own = ours.labels(0, 1), theirs.labels(0, 1)
    to_dataset = torch.tensor([1, 2, 0])  # ids of the teacher's ant, bee and cat
    assert torch.equal(moved.class_ids_BK.long(), to_dataset[own.class_ids_BK.long()])
    assert torch.equal(moved.relative_logits_BK, own.relative_logits_BK)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[0, 1]", "2 entries for the dataset's 3 classes"),
        ("[0, 1, 3]", "class 3 does not exist, as the teacher has 3 classes"),
        ("[0, [1, 2], 2]", "class 2 is named twice"),
        ("[0, 1, []]", "class 'cat' has no class of the teacher"),
        ("[0, 1, true]", "True: the teacher"),
        ("[0, 1, wolf]", "'wolf': the teacher has no class of this name"),
        ("[0, 1, 2.0]", "2.0: the teacher has no class of this name"),
        ("{ant: 0, bee: 1}", "class 'cat' is missing from the file or from the dataset"),
        ("{ant: 0, bee: 1, no: 2}", "False is not a name"),
        ("just text", "neither a list nor a mapping"),
        ("{", "while parsing"),
        ("{ant: 0, bee: 1, cat: 2, bee: 2}", "'bee' appears twice"),
    ],
)
def test_a_wrong_class_map_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(ModelError) as refused:
        built_teacher(
            f"hf:{save_hf(tmp_path / 'vit')}",
            classes=PET_CLASSES,
            img_size=IMG_SIZE,
            class_map=str(tmp_path / "map.yaml"),
        )
    assert problem in str(refused.value)


def views_of(dataset: PackedDataset) -> torch.Tensor:
    """Some views of the evaluation recipe."""
    pool = RenderPool(BatchRenderer(dataset, load_recipe("eval", img_size=IMG_SIZE)), 0)
    rendered = next(iter(pool.render([[ViewIds(np.arange(4), np.zeros(4, np.int64))]])))
    return view_batch(rendered).pixels(torch.device("cpu"))


def test_hugging_faces_own_pipeline_gives_the_same_logits(dataset: PackedDataset, tmp_path: Path) -> None:
    from transformers import pipeline

    folder = str(save_hf(tmp_path / "vit"))
    images_BCHW = views_of(dataset)
    teacher = built_teacher(f"hf:{folder}", classes=PET_CLASSES, img_size=IMG_SIZE)
    theirs = pipeline("image-classification", folder, function_to_apply="none", top_k=3, device="cpu")
    for image_CHW, ours_C in zip(images_BCHW, teacher.logits(images_BCHW), strict=True):
        scores = theirs(Image.fromarray(image_CHW.permute(1, 2, 0).byte().numpy()))
        by_name = {score["label"]: score["score"] for score in scores}
        assert [by_name[name] for name in CLASSES] == pytest.approx(ours_C.tolist(), abs=1e-5)


def test_open_clips_own_zero_shot_classifier_gives_the_same_logits(
    dataset: PackedDataset, tmp_path: Path
) -> None:
    import open_clip
    from torchvision.transforms.functional import to_pil_image

    name, templates = f"local-dir:{save_clip(tmp_path / 'clip')}", ["a photo of a {}.", "a drawing of {}."]
    (tmp_path / "prompts.txt").write_text("\n".join(templates))
    images_BCHW = views_of(dataset)
    teacher = built_teacher(
        f"clip:{name}",
        classes=PET_CLASSES,
        img_size=IMG_SIZE,
        prompts=str(tmp_path / "prompts.txt"),
    )
    model, preprocess = open_clip.create_model_from_pretrained(name)
    model.eval()
    with torch.inference_mode():
        tokenizer = open_clip.get_tokenizer(name)
        text_DC = open_clip.build_zero_shot_classifier(model, tokenizer, CLASSES, templates)
        inputs_BCHW = torch.stack([preprocess(to_pil_image(image.byte())) for image in images_BCHW])
        image_BD = model.encode_image(inputs_BCHW, normalize=True)
        theirs = model.logit_scale.exp() * image_BD @ text_DC
    torch.testing.assert_close(teacher.logits(images_BCHW), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("a.txt", "a photo\n", "'a photo' names no class"),
        ("a.txt", "", "has no templates"),
        ("a.json", '["a photo of {}"]', "has no templates"),
        ("a.json", '{"ant": ["an ant"], "bee": ["a bee"]}', "'cat' is missing from the file or dataset"),
        ("a.json", '{"ant": ["an ant"], "bee": [], "cat": "a cat"}', "'bee' is without prompts"),
        ("a.json", "{", "Expecting property name"),
        ("a.json", '{"ant": "an ant", "bee": "a bee", "bee": "b", "cat": "a cat"}', "'bee' appears twice"),
        (
            "a.json",
            '{"ant": "an ant", "bee": "a {}", "cat": "a cat"}',
            "'bee' is without prompts, or with {}",
        ),
    ],
)
def test_wrong_prompts_are_refused(file: str, text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(ModelError) as refused:
        read_prompts(str(tmp_path / file), PET_CLASSES)
    assert problem in str(refused.value)


def test_prompts_of_each_class(tmp_path: Path) -> None:
    lists = {"cat": ["a cat", "a kitten"], "ant": "an ant", "bee": ["a bee"]}
    (tmp_path / "a.json").write_text(json.dumps(lists))
    assert read_prompts(str(tmp_path / "a.json"), PET_CLASSES) == [
        ("an ant",),
        ("a bee",),
        ("a cat", "a kitten"),
    ]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("clip:ViT-B-32/openai", {}, "without --prompts"),
        ("hf:/nowhere/at/all", {}, "hf:/nowhere/at/all cannot be loaded"),
        ("hf:x", {"model_kwargs": {"a": 1}}, "--model-kwargs {'a': 1} with hf:x"),
        ("hf:x", {"checkpoint": "weights.pt"}, "--checkpoint with hf:x"),
        ("python:own_teacher:build", {"model_kwargs": {"num_classes": "x"}}, "failed at"),
        ("timm:regnety_002", {"prompts": "p.txt"}, "--prompts p.txt with --teacher timm:regnety_002"),
        ("python:own_teacher:absent", {}, "has no attribute 'absent'"),
        ("python:absent_module:build", {}, "No module named 'absent_module'"),
        ("python:own_teacher", {}, "--teacher python:own_teacher"),
        ("python:own_teacher:build_something_else", {}, "returned MeanColour"),
        ("python:own_teacher:build_without_identity", {}, "has no weights and declares no settings"),
        ("python:own_teacher:build_without_identity", {"model_kwargs": {"a": 1}}, "unexpected keyword"),
        ("python:own_teacher:build", {"model_kwargs": {"gain": float("nan")}}, "the settings of --teacher"),
        (
            "python:own_teacher:build",
            {"model_kwargs": {"mean": [123.675, 116.28, 103.53]}},
            "has mean (123.675",
        ),
        ("python:own_teacher:build", {"model_kwargs": {"std": [0.0, 0.2, 0.2]}}, "and std (0.0, 0.2"),
        ("python:own_teacher:build", {"model_kwargs": {"mean": [float("nan")] * 3}}, "has mean (nan"),
        ("python:own_teacher:build", {"model_kwargs": {"std": [0.2]}}, "and std (0.2,)"),
    ],
)
def test_teachers_that_cannot_be_built_are_refused(name: str, options: dict, problem: str) -> None:
    given = {"classes": PET_CLASSES, "img_size": IMG_SIZE, **options}
    with pytest.raises(ModelError) as refused:
        built_teacher(name, **given)
    assert problem in str(refused.value)


def refusal_of_hf(folder: Path) -> str:
    with pytest.raises(ModelError) as refused:
        built_teacher(f"hf:{folder}", classes=PET_CLASSES, img_size=IMG_SIZE)
    return str(refused.value)


def test_a_classifier_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    folder = save_hf(tmp_path / "vit")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "has no weights for classifier.weight" in refusal_of_hf(folder)


def test_statistics_follow_the_processors_switches(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = save_hf(tmp_path / "vit", do_normalize=False, rescale_factor=1 / 127)
    images = pixels()
    teacher = built_teacher(f"hf:{folder}", classes=PET_CLASSES, img_size=IMG_SIZE)
    processor, model = (
        kind.from_pretrained(folder) for kind in (AutoImageProcessor, AutoModelForImageClassification)
    )
    with torch.inference_mode():
        theirs = model.eval()(**processor(list(images), return_tensors="pt")).logits
    torch.testing.assert_close(teacher.logits(images), theirs, rtol=0, atol=1e-4)


def test_a_timm_teacher_in_a_folder_is_the_same_teacher_in_every_folder(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("regnety_002", num_classes=3)
    specs = []
    for folder in (tmp_path / "ann", tmp_path / "team b"):
        timm.models.save_for_hf(model, folder)
        specs.append(
            built_teacher(f"local-dir:{folder}", classes=PET_CLASSES, img_size=IMG_SIZE, pretrained=True).spec
        )
    assert specs[0] == specs[1]
    assert specs[0].model == "regnety_002"


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_a_checkpoint_of_another_problem_is_refused(problem: str, tmp_path: Path) -> None:
    folder = save_hf(tmp_path / "vit")
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, "problem_type": problem}))
    assert f"problem_type {problem!r}" in refusal_of_hf(folder)


def test_a_teacher_of_one_output_is_refused() -> None:
    with pytest.raises(ModelError, match="has 1 output"):
        built_teacher(
            "python:own_teacher:build", classes=ClassList(()), img_size=32, model_kwargs={"num_classes": 1}
        )


def test_a_processor_that_does_more_is_refused(tmp_path: Path) -> None:
    folder = save_hf(tmp_path / "vit")
    document = json.loads((folder / "preprocessor_config.json").read_text())
    document |= {"image_processor_type": "Swin2SRImageProcessor", "do_pad": True, "size_divisor": 48}
    (folder / "preprocessor_config.json").write_text(json.dumps(document))
    assert "does more than scale and shift each channel" in refusal_of_hf(folder)


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    folder, ran = save_hf(tmp_path / "vit"), tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    document = json.loads((folder / "config.json").read_text())
    document |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForImageClassification": "own.Own"},
    }
    (folder / "config.json").write_text(json.dumps(document))
    assert "cannot be loaded" in refusal_of_hf(folder)
    assert not ran.exists()


def test_a_classifier_saved_in_half_precision_runs_in_float32_and_classes_of_another_order_are_refused(
    tmp_path: Path,
) -> None:
    from transformers import AutoModelForImageClassification

    folder = save_hf(tmp_path / "vit")
    AutoModelForImageClassification.from_pretrained(folder).half().save_pretrained(folder)
    options = {"img_size": IMG_SIZE}
    teacher = built_teacher(f"hf:{folder}", classes=PET_CLASSES, **options)
    assert {parameter.dtype for parameter in teacher._model.parameters()} == {torch.float32}
    assert teacher.classes_are_known
    with pytest.raises(ModelError, match="2 of the dataset's 3 classes under other ids"):
        built_teacher(f"hf:{folder}", classes=ClassList(("bee", "ant", "cat")), **options)


@pytest.mark.slow
def test_reading_an_archive_imports_no_teachers_code(data: str, tmp_path: Path) -> None:
    out = tmp_path / "archive"
    words = extract_flags(data, out, teacher="python:own_teacher:build", checkpoint=None)
    assert main([*words, "--allow-disagreement"]) == 0
    program = (
        "import sys; from pipelines.cli import main; "
        f"codes = [main(['verify', {str(out)!r}, '--level=full']), main(['status', {str(out)!r}]), "
        f"main(['verify', {str(out)!r}, '--level=teacher', '--data={data}'])]; "
        "print(codes, 'own_teacher' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[0, 0, 2] False"
    assert b"own_teacher" not in b"".join(tree(out).values())


def test_a_student_asks_any_teacher_live(data: str, tmp_path: Path, capsys: Capture) -> None:
    """The losses of stored labels are those of a live teacher of Hugging Face, mapped to other classes."""
    (tmp_path / "map.json").write_text(json.dumps({"ant": "bee", "bee": "cat", "cat": "ant"}))
    teacher = f"hf:{save_hf(tmp_path / 'vit')}"
    words = extract_flags(
        data, tmp_path / "labels", teacher=teacher, checkpoint=None, topk=3, values="float32"
    )
    assert main([*words, f"--class-map={tmp_path / 'map.json'}", "--allow-disagreement"]) == 0
    run = ["train", f"--data={data}", "--model=test_vit", "--device=cpu", "--distillation=hard", "--steps=4"]
    run += ["--batch-size=8"]
    live = [f"--teacher={teacher}", f"--teacher-class-map={tmp_path / 'map.json'}", f"--img-size={IMG_SIZE}"]
    stored = [f"--labels={tmp_path / 'labels'}"]
    found = []
    for name, source in (("live", [*live, "--views=0:3"]), ("stored", stored)):
        assert student([*run, f"--output={tmp_path / name}", *source]) == 0, capsys.readouterr().err
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        found.append([json.loads(line)["loss"] for line in lines if '"loss"' in line])
    assert len(found[0]) == 4
    assert found[0] == found[1]

    (tmp_path / "map.json").write_text(json.dumps({"ant": "ant", "bee": "cat", "cat": "bee"}))
    metrics = tmp_path / "live" / "metrics.jsonl"  # without its result the run is not finished
    metrics.write_text("".join(line for line in metrics.open() if '"result"' not in line))
    assert student([*run, f"--output={tmp_path / 'live'}", *live, "--views=0:3", "--resume=auto"]) == 2
    assert "live teacher's digest" in capsys.readouterr().err


def test_a_clip_teachers_config_is_part_of_its_digest(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a {}\n")
    given = {"classes": PET_CLASSES, "img_size": IMG_SIZE}
    specs = []
    for head_width in (16, 8):
        folder = save_clip(tmp_path / f"clip{head_width}")
        document = json.loads((folder / "open_clip_config.json").read_text())
        document["model_cfg"]["vision_cfg"]["head_width"] = head_width
        (folder / "open_clip_config.json").write_text(json.dumps(document))
        teacher = built_teacher(f"clip:local-dir:{folder}", prompts=str(tmp_path / "prompts.txt"), **given)
        specs.append(teacher.spec)
    assert specs[0].weights_sha256 == specs[1].weights_sha256
    assert specs[0] != specs[1]


@pytest.mark.slow
def test_a_tags_activation_and_statistics_are_used(tmp_path: Path) -> None:
    """OpenAI's weights were trained with QuickGELU, which open_clip's model of the same name has not."""
    (tmp_path / "prompts.txt").write_text("a {}\n")
    given = {"classes": PET_CLASSES, "img_size": 32, "pretrained": False}
    settings = [
        built_teacher(f"clip:ViT-B-32{tag}", prompts=str(tmp_path / "prompts.txt"), **given).spec.settings
        for tag in ("", "/openai")
    ]
    assert settings[0]["config_sha256"] != settings[1]["config_sha256"]


def test_zero_shot_logits_are_as_fine_under_bfloat16(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a {}\n")
    given = {
        "classes": PET_CLASSES,
        "img_size": IMG_SIZE,
        "precision": "bfloat16",
    }
    folder = save_clip(tmp_path / "clip")
    teacher = built_teacher(f"clip:local-dir:{folder}", prompts=str(tmp_path / "prompts.txt"), **given)
    logits_BC = teacher.logits(pixels())
    assert not torch.equal(logits_BC, logits_BC.bfloat16().float())


def test_names_of_another_length_are_not_the_teachers(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps({"ant": "x0", "bee": "x1", "cat": "x2"}))
    classes = ClassList(CLASSES)
    names = [tuple(f"x{number}" for number in range(8))]
    with pytest.raises(ModelError, match="have no known names"):
        read_class_map(str(tmp_path / "map.json"), classes, 3, names)

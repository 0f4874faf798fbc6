import dataclasses
from pathlib import Path

import pytest

from pipelines.cli import COMMANDS as TEACHER_CACHE_COMMANDS
from pipelines.cli import main as teacher_cache_main
from student.cli import COMMANDS as STUDENT_COMMANDS
from teacher_cache.errors import InputError, TeacherCacheError
from teacher_cache.program.commandline import Command, run_command
from teacher_cache.program.flags import parse_kwargs, parse_views


@dataclasses.dataclass(frozen=True)
class Flags:
    """Do something."""

    name: str
    count: int = 1
    fast: bool = True
    words: tuple[str, ...] = ()


def run(*argv: str) -> tuple[int, list[Flags]]:
    seen: list[Flags] = []
    commands = {"do": Command(Flags, lambda flags: seen.append(flags) or 0)}
    return run_command("prog", "It does.", commands, argv), seen


CACHE = "images_in cache_dir cache_gib"
KEY = "key manifest"
TEACHER = (
    f"{CACHE} checkpoint pretrained device batch_size workers prompts class_map model_kwargs channels_last "
    "compile"
)
REQUEST = (
    f"{TEACHER} {KEY} data teacher out recipe img_size views topk affinity components values views_per_unit "
    "extends catalog catalog_key precision retries max_quarantined max_gpu_hours allow_disagreement run_dir "
    "followed"
)
ACTORS = "num_actors gpus_per_actor cpus_per_actor unit_timeout_s drain_s"
EXTRACT = f"json {REQUEST} {ACTORS} engine address"
FLAGS = {
    "teacher-cache pack": (
        "json src dst shard_size seed max_side quality skip_corrupt extends split splits classes labels "
        "unlabelled image_column label_column image_key label_key in_place shuffle crops workers"
    ),
    "teacher-cache plan": f"{EXTRACT} price_per_gpu_hour epochs",
    "teacher-cache extract": EXTRACT,
    "teacher-cache submit": f"json {REQUEST} {ACTORS} dashboard",
    "teacher-cache status": "json dashboard archive job",
    "teacher-cache logs": "dashboard job follow",
    "teacher-cache stop": "dashboard job",
    "teacher-cache verify": f"json {TEACHER} teacher {KEY} archive level data num_views seed",
    "teacher-cache repair": f"json {TEACHER} teacher archive data",
    "teacher-cache inspect": "json images_in archive data row key view recipe img_size image",
    "teacher-cache export": f"images_in {KEY} archive dst data format views",
    "teacher-cache import": "src dst",
    "teacher-cache merge": f"{KEY} dst src",
    "teacher-cache push": "json views shards classes workers recheck archive url",
    "teacher-cache pull": f"json views shards classes workers recheck {KEY} url archive",
    "teacher-cache sign": "json image_license teacher_license archive key who device gpu_hours",
    "teacher-cache view": f"{CACHE} archive data port static num_samples",
    "teacher-cache catalog": "json root",
    "teacher-cache card": f"json {CACHE} image_license teacher_license archive name license url data",
    "teacher-cache serve": "config",
    "teacher-cache token": "json config name team scopes days max_requests max_gpu_hours",
    "teacher-cache request": (
        "json action id data teacher recipe views img_size topk values affinity follow webhook wait"
    ),
    "student train": (
        f"{CACHE} {KEY} data output resume dry_run model pretrained finetune model_kwargs distillation "
        "distillation_token labels follow follow_timeout_s label_weights teacher teacher_checkpoint "
        "teacher_pretrained "
        "teacher_model_kwargs teacher_prompts teacher_class_map "
        "distillation_alpha distillation_tau kd_reduction tail recipe img_size views views_per_load "
        "views_together window_shards epochs steps batch_size grad_accum_steps opt lr lr_base min_lr "
        "warmup_epochs warmup_lr weight_decay smoothing drop_path clip_grad model_ema model_ema_decay seed "
        "val_data val_interval crop_pct device precision torchcompile workers log_interval "
        "checkpoint_interval checkpoint_hist tensorboard log_wandb wandb_project push_to_hub ray ray_ranks "
        "ray_address"
    ),
    "student eval": f"json {CACHE} checkpoint data crop_pct batch_size device workers",
    "student report": "runs out",
    "student runs": "",
}


def test_flags_are_promised_to_stay() -> None:
    commands = {f"teacher-cache {name}": command for name, command in TEACHER_CACHE_COMMANDS.items()}
    commands |= {f"student {name}": command for name, command in STUDENT_COMMANDS.items()}
    found = {
        name: [field.name for field in dataclasses.fields(command.config)]
        for name, command in commands.items()
    }
    assert found == {name: flags.split() for name, flags in FLAGS.items()}


def test_flags_come_from_a_file_and_later_ones_override(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("name: a\ncount: 3\nfast: false\nwords: [x, y]\n")
    assert run("do", "--config", str(file)) == (0, [Flags("a", 3, False, ("x", "y"))])
    assert run("do", f"--config={file}") == (0, [Flags("a", 3, False, ("x", "y"))])
    assert run("do", "--config", str(file), "--count", "4") == (0, [Flags("a", 4, False, ("x", "y"))])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["od"], "nearest: do"),
        (["do"], "--name"),
        (["do", "--name", "a", "--cuont", "2"], "--count"),
        (["do", "--name", "a", "--count", "two"], "two"),
        (["do", "--config"], "--config without a file"),
        (["do", "--config", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
        (["do", "--config", __file__], "cannot be read|is not a mapping"),
    ],
)
def test_a_wrong_command_line_exits_with_2(
    argv: list[str], message: str, capfd: pytest.CaptureFixture
) -> None:
    try:
        code, _ = run(*argv)
    except SystemExit as error:
        code = error.code
    assert code == 2
    captured = capfd.readouterr()
    assert any(part in captured.err + captured.out for part in message.split("|"))


def test_a_misspelt_key_of_a_file_is_said(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("name: a\ncuont: 3\n")
    with pytest.raises(SystemExit, match="2"):
        run("do", "--config", str(file))
    assert "--count" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("bad", "so", "do"), 2), (TeacherCacheError("failed"), 1)]
)
def test_errors_become_exit_codes_and_messages(
    error: TeacherCacheError, code: int, capsys: pytest.CaptureFixture
) -> None:
    def fail(_flags: Flags) -> int:
        raise error

    assert run_command("prog", "It fails.", {"do": Command(Flags, fail)}, ["do", "--name", "a"]) == code
    assert capsys.readouterr().err == f"prog do: {error}\n"


def test_a_message_says_value_consequence_and_remedy() -> None:
    assert str(InputError("--k 0", "No label.", "choose 1")) == "--k 0\nNo label.\nRemedy: choose 1"
    assert str(InputError("--k 0")) == "--k 0"


def test_no_command_prints_the_overview(capsys: pytest.CaptureFixture) -> None:
    assert teacher_cache_main([]) == 2
    assert "extract  Label views" in capsys.readouterr().out


def test_values_in_flags() -> None:
    assert parse_views("3:7") == range(3, 7)
    assert parse_kwargs(["a=1", "b=(1, 2)", "c=x", "d=y=z"]) == {"a": 1, "b": (1, 2), "c": "x", "d": "y=z"}
    for text in ("", "3", "3:3", "a:b", "-1:3"):
        with pytest.raises(InputError, match="--views"):
            parse_views(text)
    with pytest.raises(InputError, match="sets nothing"):
        parse_kwargs(["a"])

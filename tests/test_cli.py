"""The command line: bad input is one sentence with exit code 2, and every flag, preset and command explains itself."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import docstring_parser
import pytest

from cnnjax.cli import command_line, main, presets, renamed
from cnnjax.cli import train as cli_train
from cnnjax.cli.config import Config, DataConfig, OptimizerConfig, TrainConfig
from cnnjax.cli.config_json import as_dict, from_dict
from cnnjax.cli.presets import DESCRIPTIONS, PRESETS
from cnnjax.cli.translate import translate
from cnnjax.errors import Preempted, UserError

ROOT = Path(__file__).parent.parent


def _train(preset: str, config: Config, *, resume: bool = False) -> None:
    """Train.

    Args:
        resume: Continue.
    """
    print(preset, config.train.epochs, resume)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["cnx"], "unknown preset 'cnx': did you mean cnn"),
        (["--train.epochs", "3"], "the first argument is the preset"),
        (["cnn", "--train.epoch", "3"], "unknown flag '--train.epoch': did you mean --train.epochs"),
        (["cnn", "--train.epochs", "abc"], "--train.epochs does not accept 'abc': a whole number is expected"),
        (["cnn", "--optimizer.learning-rate", "abc"], "does not accept 'abc': a number is expected"),
        (["cnn", "--optimizer.warmup-steps", "abc"], "does not accept 'abc': a whole number or None is expected"),
        (["cnn", "--train.batch-size", "0"], "--train.batch-size 0 must be at least 1"),
        (["cnn", "--data.source", "imagefolder"], "unknown data source 'imagefolder'"),
        (["cnn", "--data.source", "/"], "--data.source / is a folder: write folder:/"),
        (["cnn", "--data.source", "hub"], "--data.source hub is incomplete: write hub:…"),
        (["cnn", "--data.loading", "stream"], "--data.loading stream needs images in files, and the procedural source"),
        (["cnn", "--data.workers", "-1"], "--data.workers -1 is negative: use 0 for threads"),
        (["cnn", "--data.image-size", "150", "4"], "--data.image-size 4 is too small"),
        (["cnn", "--model.name", "resnet"], "--model.name does not accept 'resnet': choose one of small-cnn, vgg11"),
        (["cnn", "--augment.zoom", "1"], "--augment.zoom 1.0 must be at least 0 and less than 1"),
        (["cnn", "--mix.mixup", "0.2", "--mix.cutmix", "1"], "--mix.mixup and --mix.cutmix exclude each other"),
        (["cnn", "--loss.label-smoothing", "1"], "--loss.label-smoothing 1.0 must be at least 0 and less than 1"),
        (["cnn", "--train.ema", "1"], "--train.ema 1.0 must be at least 0 and less than 1"),
        (["cnn", "--optimizer.momentum", "1"], "--optimizer.momentum 1.0 must be at least 0 and less than 1"),
        (["cnn", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_bad_input_is_one_sentence(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main_with_preset(_train, arguments)
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.err.startswith("error: ") and expected in said.err
    assert said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize("old", [flag for flag in renamed.FLAGS if "." in flag and not flag.startswith("--hosts")])
def test_a_flag_of_the_first_edition_answers_with_its_new_name(old, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main_with_preset(_train, ["cnn", old, "3"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {old} is called {renamed.FLAGS[old]} now\n"


def test_a_flag_without_a_section_is_renamed_where_the_command_has_the_new_one(capsys):
    def draw(*, image_size: int = 3, include_top: bool = True) -> None:
        """Draw."""

    def other(*, top: int = 5) -> None:
        """Have a flag that another command has renamed."""

    for old, new in (("--side", "--image-size"), ("--no-top", "--no-include-top"), ("--top", "--include-top")):
        with pytest.raises(SystemExit):
            command_line.main(draw, [old])
        assert capsys.readouterr().err == f"error: {old} is called {new} now\n"
    with pytest.raises(SystemExit) as stop:
        command_line.main(other, ["--top", "7"])
    assert stop.value.code == 0
    with pytest.raises(SystemExit):
        command_line.main(other, ["--side", "7"])
    assert "unknown flag '--side'" in capsys.readouterr().err


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path):
    """An editable install, run beside the clone, which is such a folder."""
    (tmp_path / "cnnjax").mkdir()
    code = "from cnnjax import Network"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


HELP = [
    [name, *more]
    for name, entry in main.COMMANDS.items()
    for more in (
        [[sub] for sub in entry.load()] if isinstance(entry.load(), Mapping) else [["cnn"] * entry.has_presets]
    )
]


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_fits_into_80_columns(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("cnnjax.runtime.changes", ["a flag that was added for the sake of faster programs"] * 3)
    with pytest.raises(SystemExit) as stop:
        main.main([*arguments, "--help"])
    assert stop.value.code == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) == 80


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_tyro_is_given_each_argument_on_one_line(arguments):
    loaded = main.COMMANDS[arguments[0]].load()
    function = loaded[arguments[1]] if isinstance(loaded, Mapping) else loaded
    params = docstring_parser.parse(command_line._deferred(function).__doc__).params
    assert params and not any("\n" in param.description for param in params)


def test_overrides_reach_the_config(capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main_with_preset(_train, ["cnn", "--train.epochs", "7", "--resume"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == "cnn 7 True\n"


def test_every_flag_has_a_sentence_and_the_help_tells_what_the_runtime_set(capsys, monkeypatch):
    monkeypatch.setattr("cnnjax.runtime.changes", ["one flag", "one cache"])
    with pytest.raises(SystemExit) as stop:
        command_line.main_with_preset(_train, ["cnn", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--train.epochs" in text
    assert text.endswith("runtime: one flag; one cache; CNNJAX_RUNTIME=off changes nothing\n")
    words = " ".join(text.replace("│", " ").split())
    for section in dataclasses.fields(Config)[:-1]:
        for field in dataclasses.fields(section.type):
            sentence = field.metadata["help"]
            assert sentence.endswith((".", ".)")) and sentence in words, (section.name, field.name)


def test_presets_are_explained(capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main_with_preset(_train, ["--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())  # sentences are wrapped
    assert DESCRIPTIONS.keys() == PRESETS.keys()
    for name, sentence in DESCRIPTIONS.items():
        assert f"{name} {sentence}" in said and sentence.endswith(".") and len(sentence) <= 110


def test_an_error_of_the_run_is_one_sentence(capsys):
    def fail(*, where: str = "here") -> None:
        """Fail."""
        raise UserError(f"no such folder {where}: make it")

    with pytest.raises(SystemExit) as stop:
        command_line.main({"fail": fail}, ["fail", "--where", "there"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: no such folder there: make it\n"
    with pytest.raises(SystemExit) as stop:
        command_line.main({"fail": fail}, ["fial"])
    assert stop.value.code == 2
    assert "did you mean fail" in capsys.readouterr().err


FLAGS = [
    "--run", "--resume", "--no-resume", "--seeds", "--data.image-size", "--data.seed", "--data.eval-per-class",
    "--data.cache", "--data.no-cache", "--train.batch-size", "--train.seed", "--train.epochs", "--train.freeze",
    "--train.steps-per-epoch", "--optimizer.warmup-steps", "--distributed.coordinator", "--distributed.count",
    "--distributed.index",
]  # fmt: skip


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("batch_size=20 is more than 8: use batch_size=8.", "--train.batch-size 20 is more than 8: use "
         "--train.batch-size 8."),
        ("runs/batch_size=3/x holds a run: continue it with resume=True, or choose another run_dir",
         "runs/batch_size=3/x holds a run: continue it with --resume, or choose another --run"),
        ("x was started with train.epochs=20 and not 30", "x was started with --train.epochs 20 and not 30"),
        ("x was started with data.seed=2 and not 3", "x was started with --data.seed 2 and not 3"),
        ("freeze=('block1', 'block2') leaves nothing; freeze=['a']", "--train.freeze block1 block2 leaves nothing; "
         "--train.freeze a"),
        ("image_size=(100, 150) with seed=3, cache=False", "--data.image-size 100 150 with --train.seed 3, "
         "--data.no-cache"),
        ("steps_per_epoch=None, valid=0.2 (test=5)", "--train.steps-per-epoch 0, --data.eval-per-class 0.2 "
         "(--data.eval-per-class 5)"),
        ("x was started with optimizer.warmup_steps=None", "x was started with --optimizer.warmup-steps None"),
        ("`count` and `index` need `coordinator`: coordinator='a:1', image_size=…",
         "--distributed.count and --distributed.index need --distributed.coordinator: --distributed.coordinator a:1, "
         "--data.image-size …"),
        ("lower `valid` or `test`, or both", "lower --data.eval-per-class, or both"),
        ("lower `seed`, `valid` or `test`", "lower --train.seed or --data.eval-per-class"),
        ("--over train.seed is written --seeds", "--over train.seed is written --seeds"),
        ("x holds a Mine: pass model=, an instance of that class or what nnx.eval_shape makes of its constructor",
         "x holds a Mine: commands know only these, so load it in Python with formats.load(path, model=...)"),
        # Words, layers, files and values are not arguments.
        ("seed the count of epochs, conv_4/kernel, 'run_dir', run_dir.txt, other=3, models.create(seed=3)",
         "seed the count of epochs, conv_4/kernel, 'run_dir', run_dir.txt, other=3, models.create(--train.seed 3)"),
    ],
)  # fmt: skip
def test_arguments_of_the_library_become_flags(message, expected):
    assert translate(message, FLAGS) == expected


def test_errors_of_the_library_name_the_flags_of_the_command(capsys):
    def train(preset: str, config: Config, *, resume: bool = False) -> None:
        """Train."""
        error = Preempted if resume else UserError
        raise error("batch_size=20 does not fit: use microbatches=2 or resume=True in another run_dir")

    sentence = "--train.batch-size 20 does not fit: use --train.microbatches 2 or --resume in another --run\n"
    with pytest.raises(SystemExit) as stop:
        command_line.main_with_preset(train, ["debug"])
    assert stop.value.code == 2 and capsys.readouterr().err == f"error: {sentence}"
    with pytest.raises(SystemExit) as stop:
        command_line.main_with_preset(train, ["debug", "--resume"])
    assert stop.value.code == 0 and capsys.readouterr().err == f"\n{sentence}"


def test_interrupt_exits_130(capsys):
    def interrupted() -> None:
        """Be interrupted."""
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        command_line.main(interrupted, [])
    assert stop.value.code == 130
    assert "run the same command again" in capsys.readouterr().err


def test_preempted_exits_0(capsys):
    def stopped() -> None:
        """Be preempted."""
        raise Preempted("stopped by SIGTERM: continue with resume")

    with pytest.raises(SystemExit) as stop:
        command_line.main(stopped, [])
    assert stop.value.code == 0
    assert capsys.readouterr().err == "\nstopped by SIGTERM: continue with resume\n"


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_json(name):
    config = dataclasses.replace(PRESETS[name], data=dataclasses.replace(PRESETS[name].data, image_size=(64, 48)))
    for one in (PRESETS[name], config):
        assert from_dict(Config, json.loads(json.dumps(as_dict(one)))) == one


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"data": {"sid": 3}}, "unknown field of DataConfig 'sid'"),
        ({"train": {"epochs": "many"}}, "TrainConfig.epochs does not accept 'many'"),
        ({"train": {"epochs": True}}, "TrainConfig.epochs does not accept True"),
        ({"train": {"freeze": [3]}}, "TrainConfig.freeze does not accept"),
        ({"data": {"image_size": [3, 4, 5]}}, "DataConfig.image_size does not accept"),
        ({"optimizer": {"name": "adma"}}, "OptimizerConfig.name does not accept 'adma'"),
        ({"data": 3}, "Config.data must be an object of settings"),
        ({"train": {"epochs": 0}}, "must be at least 1"),
    ],
)
def test_a_file_of_settings_that_is_wrong(values, sentence):
    with pytest.raises(UserError, match=sentence):
        from_dict(Config, values)


def test_the_settings_of_an_earlier_run_stand_in_place_of_a_preset(tmp_path):
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(as_dict(dataclasses.replace(PRESETS["debug"], run=str(path.parent)))))
    name, config = presets.find(str(path))
    assert name == "mine-again" and config == PRESETS["debug"]  # without the folder, which has that run

    seen = {}

    def train(preset: str, config: Config) -> None:
        """Train."""
        seen[preset] = config

    command_line.parse(command_line.with_preset(train, name, config), ["--train.epochs", "5"], "cnnjax train")
    assert seen["mine-again"].train.epochs == 5 and seen["mine-again"].data == PRESETS["debug"].data


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "there are no settings"),
        ("{", "cannot be read as JSON"),
        ("[1]", "holds no settings"),
        ('{"epochs": 3}', "unknown field of Config 'epochs'.*only the settings of cnnjax train"),
    ],
)
def test_settings_that_are_none(tmp_path, text, sentence):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        presets.find(str(path))


FIRST_EDITION = {
    "data": {"source": "procedural", "classes": ["cat", "dog"], "side": 64, "per_class": 1000, "eval_per_class": 500,
             "seed": 3, "feed": "auto", "workers": 0, "cache": True, "cleaning": "zca"},
    "augment": {"enabled": True, "rotation": 15.0, "shift": 0.1, "shear": 0.2, "zoom": 0.2, "flip": True,
                "fill": "nearest", "exposure": 0.0, "contrast": 0.0},
    "model": {"name": "vgg16", "width": 0.25, "dense": 512, "dropout": 0.5},
    "optimizer": {"name": "adam", "learning_rate": 0.0005, "momentum": 0.9, "weight_decay": 0.0001,
                  "schedule": "warmup-cosine", "warmup": 260},
    "train": {"epochs": 12, "batch_size": 32, "steps_per_epoch": 0, "seed": 0, "parallel": "auto", "calls_per_epoch": 2,
              "checkpoint_steps": 7, "early_stopping": 3, "tensorboard": False, "precision": "float32",
              "microbatches": 1, "remat": False, "start": "other.safetensors", "frozen": ["block1"]},
    "run": "runs/vgg16-mini",
}  # fmt: skip


def test_a_config_of_the_first_edition_is_read():
    config = from_dict(Config, FIRST_EDITION)
    assert (config.data.image_size, config.data.normalization, config.data.loading) == (64, "zca", "auto")
    assert (config.model.width_multiplier, config.model.dense_units) == (0.25, 512)
    assert config.optimizer == OptimizerConfig(learning_rate=5e-4, schedule="warmup-cosine", warmup_steps=260)
    train = config.train
    assert (train.strategy, train.dispatches_per_epoch, train.checkpoint_every_steps) == ("auto", 2, 7)
    assert (train.early_stopping_patience, train.init_from, train.freeze) == (3, "other.safetensors", ("block1",))
    assert config.augment.enabled and config.augment.rotation == 15 and config.run == "runs/vgg16-mini"


def test_configs_that_do_not_record_the_renderer_have_version_3():
    assert from_dict(Config, FIRST_EDITION).data.rendering == 3
    today = as_dict(Config())
    assert today["data"]["rendering"] is None and from_dict(Config, today) == Config()
    del today["data"]["rendering"]
    assert from_dict(Config, today).data.rendering == 3
    assert from_dict(Config, {"data": {"image_size": 64}}).data.rendering is None  # not a run's file


def test_every_renamed_field_exists():
    kinds = {"DataConfig": DataConfig, "TrainConfig": TrainConfig, "OptimizerConfig": OptimizerConfig}
    for name, kind in kinds.items():
        fields = {field.name for field in dataclasses.fields(kind)}
        assert set(renamed.FIELDS[name].values()) <= fields and not set(renamed.FIELDS[name]) & fields


# The console command


def cnnjax(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main.main(arguments)
    return stop.value.code


def test_the_console_command_explains_itself(capsys):
    assert cnnjax("--help") == 0
    text = capsys.readouterr().out
    assert cnnjax() == 2
    assert capsys.readouterr().out == text
    for name, entry in main.COMMANDS.items():
        assert f"{name} {entry.sentence}" in " ".join(text.split())
    assert cnnjax("--version") == 0
    assert capsys.readouterr().out.startswith("cnnjax 0.")
    for words, sentence in (
        (["trian"], "unknown command 'trian': did you mean train"),
        (["--verson"], "unknown flag '--verson': did you mean --version"),
        (["--print-completion"], "--print-completion needs a shell: choose one of bash, zsh, fish"),
        (["--print-completion", "cmd"], "--print-completion cmd: choose one of bash"),
        (["visualize", "filtres"], "unknown command 'filtres': did you mean filters"),
        (["contact-sheet", "--columns", "0"], "--columns 0 must be at least 1"),
        (["contact-sheet", "--classes", "cta"], "did you mean cat"),
        (
            ["contact-sheet", "--out", "runs/contact"],
            "has no ending: give a file's name that ends in .png, .jpg, .webp",
        ),
        (["export", "vgg16", "--to", "pytorch", "--out", "a"], "stablehlo; torchvision is PyTorch's"),
        (["contact-sheet", "--out", "sheet.gif"], "unknown image format '.gif'"),
        (["export", "nowhere.pth", "--to", "keras", "--out", "x"], "nowhere.pth"),
        (["classify"], "no image was named"),
        (["train", "debug", "--train.epoch", "3"], "did you mean --train.epochs"),
    ):
        assert cnnjax(*words) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and sentence in said.err and said.err.count("\n") == 1, said.err


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_explains_itself_and_each_of_its_flags(name, capsys):
    entry = main.COMMANDS[name]
    found = entry.load()
    functions = dict(found) if isinstance(found, Mapping) else {"debug" if entry.has_presets else "": found}
    for words, function in functions.items():
        parsed = docstring_parser.parse_from_object(function)
        assert parsed.short_description.endswith(".")
        described = {param.arg_name: param.description for param in parsed.params}
        parameters = inspect.signature(function).parameters.keys() - {"preset", "config", "reading"}
        assert described.keys() == parameters and all(text.endswith(".") for text in described.values())
        assert cnnjax(name, *filter(None, [words]), "--help") == 0
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for sentence in described.values():
            assert " ".join(sentence.split()) in text
        if "weights" in parameters:
            assert all(f"--weights-{what}" in text for what in ("image-size", "preprocessing", "classes")), words


def test_a_shell_completes_commands_presets_and_flags(tmp_path):
    script = main.completion("bash")
    (tmp_path / "completion").write_text(script)

    def complete(*words: str) -> set[str]:
        code = (
            f"source {tmp_path / 'completion'}; COMP_WORDS=({' '.join(words)} ''); COMP_CWORD={len(words)}; "
            "_tyro_cnnjax; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60, check=True)
        return {line.strip() for line in done.stdout.splitlines()}

    assert main.COMMANDS.keys() <= complete("cnnjax")
    assert PRESETS.keys() <= complete("cnnjax", "train")
    assert {"--train.batch-size", "--data.image-size"} <= complete("cnnjax", "train", "debug")
    assert {"filters", "classes", "feature-maps"} <= complete("cnnjax", "visualize")
    assert "cnnjax" in main.completion("zsh") and "cnnjax" in main.completion("fish")


def test_a_wheel_has_all_that_training_needs(tmp_path):
    """The command, every module, and every file that is not Python."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("cnnjax", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    build = "import setuptools.build_meta as b; b.build_wheel('wheels')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((source / "wheels").glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
        entry_points = wheel.read(next(name for name in packed if name.endswith("entry_points.txt"))).decode()
    assert "cnnjax = cnnjax.__main__:main" in entry_points
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "cnnjax").rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} <= packed


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "cnnjax", "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("cnnjax ")


@pytest.mark.parametrize("name", main.COMMANDS)
def test_experiments_are_thin(name):
    """Each is a lab note and a call of the command's function."""
    path = ROOT / "experiments" / f"{name.replace('-', '_')}.py"
    note, code = path.read_text().split('"""\n', 1)
    assert f"python experiments/{path.name}" in note
    assert len(code.strip().splitlines()) <= 6


@pytest.mark.parametrize(
    ("source", "image_size", "chosen", "expected"),
    [
        ("procedural", 64, None, 4),
        ("procedural", 99, None, 4),
        ("procedural", 100, None, 5),
        ("procedural", 150, 3, 3),
        ("procedural", 64, 5, 5),
        ("folder:photos", 150, None, 4),
    ],
)
def test_the_renderer_is_that_of_the_image_size(source, image_size, chosen, expected):
    """A run records the version that was used, and one on files always the same, so that it can be resumed."""
    given = DataConfig(source=source, image_size=image_size, rendering=chosen)
    assert cli_train.for_files("cnn", Config(data=given)).data.rendering == expected

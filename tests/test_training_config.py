"""Settings of a training run: recipes, precedence, and one clear sentence for everything that is wrong."""

import dataclasses
from pathlib import Path

import pytest
from training_runs import RECIPES, make_request, write_recipe

from convfirst_ext.training.building import learning_rate
from convfirst_ext.training.config import SETTINGS, TrainingConfig, make_config, read_recipe
from convfirst_ext.training.distributed import Group, choose_device
from convfirst_ext.training.errors import ConfigError
from convfirst_ext.training.plan import make_plan

PAPER = {
    "epochs": 600,
    "lr": 0.128,
    "batch_size": 2048,
    "warmup_epochs": 3,
    "optimizer": "rmsproptf",
    "momentum": 0.9,
    "weight_decay": 1e-5,
    "schedule": "step",
    "decay_epochs": 2.4,
    "decay_rate": 0.97,
    "drop_path_rate": 0.2,
    "auto_augment": "rand-m9-mstd0.5",
    "erase_prob": 0.2,
    "erase_mode": "pixel",
    "train_size": 224,
    "eval_size": 256,
    "amp": "float16",
}


def test_the_imagenet_recipe_is_the_papers():
    config = make_config(read_recipe(RECIPES / "imagenet.toml"), {"data": "images"})
    assert {key: getattr(config, key) for key in PAPER} == PAPER
    assert config.ema_decay > 0 and learning_rate(config) == 0.128


@pytest.mark.parametrize(("size", "dropout"), [("pico", 0.2), ("nano", 0.3), ("tiny", 0.3), ("small", 0.3)])
def test_dropout_goes_with_the_models_size(size, dropout):
    recipe = read_recipe(RECIPES / "imagenet.toml")
    assert make_config(recipe, {"model": f"convfirstnet_{size}"}).drop_rate == dropout
    assert make_config(recipe, {"model": f"convfirstnet_{size}", "drop_rate": 0.5}).drop_rate == 0.5


def test_the_learning_rate_goes_with_the_batch_size():
    config = make_config(read_recipe(RECIPES / "imagenet.toml"), {"batch_size": 256})
    assert learning_rate(config) == pytest.approx(0.016)
    assert learning_rate(make_config({"lr": 0.5}, {"batch_size": 7})) == 0.5


def test_the_digits_recipe_needs_no_folder_and_no_gpu():
    config = make_config(read_recipe(RECIPES / "digits.toml"), {})
    assert (config.data, config.model, config.device) == ("digits", "convfirstnet_pico", "cpu")


def test_every_setting_is_described():
    assert all(f"    {name}: " in (TrainingConfig.__doc__ or "") for name in SETTINGS)


def test_whole_numbers_are_numbers():
    assert make_config({"lr": 1}, {}) == make_config({}, {"lr": 1.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, r"epochs must be a whole number of at least 1, got 0$"),
        ({"epochs": 2.5}, r"epochs must be a whole number of at least 1, got 2.5$"),
        ({"epochs": True}, r"epochs must be a whole number of at least 1, got True$"),
        ({"lr": 0}, r"lr must be a number of more than 0, got 0$"),
        ({"lr": "fast"}, r"lr must be a number of more than 0, got 'fast'$"),
        ({"lr": float("nan")}, r"lr must be a number of more than 0, got nan$"),
        ({"weight_decay": float("inf")}, r"weight_decay must be a number of at least 0, got inf$"),
        ({"hflip": 1.5}, r"hflip must be a number of at least 0 and at most 1, got 1.5$"),
        ({"amp": "half"}, r"amp must be one of none, bfloat16, float16, got 'half'$"),
        ({"patch": "yes"}, r"patch must be true or false, got 'yes'$"),
        ({"patch": 1}, r"patch must be true or false, got 1$"),
        ({"model": ""}, r"model must be the name of a timm model, got ''$"),
        ({"model": 3}, r"model must be the name of a timm model, got 3$"),
        ({"warmup_epochs": 15}, r"warmup_epochs must be less than epochs \(15\), got 15$"),
        ({"epoch": 3}, r"epoch = 3 is not a setting; did you mean epochs\?$"),
        ({"zzz": 3}, r"zzz = 3 is not a setting; allowed are model, .*, seed$"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_config({}, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "is not valid TOML"),
        ("epocs = 3", "epocs = 3 is not a setting; did you mean epochs"),
        ("[for_model.a]\nepocs = 3", "epocs = 3 is not a setting; did you mean epochs"),
        ("for_model = 3", "for_model must hold one table a model, got 3"),
        ("[train]\nepochs = 3", "train = .* is not a setting"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)


def test_a_recipe_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.toml: No such file"):
        read_recipe(tmp_path / "nowhere.toml")
    (tmp_path / "picture.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="picture.toml: not UTF-8 text"):
        read_recipe(tmp_path / "picture.toml")


def test_what_the_user_says_is_above_the_recipe(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path / "recipe.toml", epochs=7, seed=3))
    config = make_config(recipe, {"seed": 4})
    assert (config.epochs, config.seed, config.momentum) == (7, 4, TrainingConfig.momentum)


def test_devices():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="device must be auto, cpu, cuda or .*, got 'tpu'"):
        choose_device("tpu")
    with pytest.raises(ConfigError, match="device must be one of the [0-9]+ CUDA devices .*, got 'cuda:99'"):
        choose_device("cuda:99")


def test_batches_divide_evenly_over_processes():
    group = Group(choose_device("cpu"), rank=1, size=4)
    assert group.share_of(64) == 16
    with pytest.raises(ConfigError, match="batch_size must be a multiple of the 4 processes, got 66"):
        group.share_of(66)


def test_another_run_is_not_overwritten(tmp_path):
    folder = tmp_path / "run"
    request = make_request(folder, tmp_path)
    assert make_plan(request).output == folder
    folder.mkdir()
    (folder / "notes.txt").touch()
    assert make_plan(request).output == folder
    (folder / "settings.json").touch()
    with pytest.raises(ConfigError, match="must be a folder without another run, but .* holds settings.json"):
        make_plan(request)
    assert make_plan(dataclasses.replace(request, resume="auto")).checkpoint is None
    with pytest.raises(ConfigError, match="output must be a folder, got the file"):
        make_plan(dataclasses.replace(request, output=folder / "notes.txt"))


def test_auto_starts_a_run_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = dataclasses.replace(make_request(tmp_path / "run", tmp_path), output=None, resume="auto")
    plan = make_plan(request)
    assert plan.output is None and plan.checkpoint is None
    assert not Path("runs").exists()

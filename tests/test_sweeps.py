"""Sweeps from the command line: their folders, what fails, what is cut off, and several ranks."""

import io
import json
import os
import signal
from pathlib import Path

import optuna
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console
from test_train import assert_same_training, process, rows, wait_for

from mbgan import train
from mbgan.runs import Run
from mbgan.sweeps import job_name, job_table, quoted, rendezvous, run_relayed, sweep_folder

KID = "kid/efficientnet_lite0"


@pytest.fixture
def job(small):
    """Overrides of mbgan.train for a job of a sweep: those of a small run without its folder."""
    return [override for override in small if not override.startswith("hydra")]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """The folder of a sweep, given by the command line."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sweep"


@pytest.fixture
def played(monkeypatch):
    """Play the trainings instead of running them; return the folders of those that began.

    Their KID is the generator's learning rate. With seed 13 they fail, and KeyboardInterrupt
    ends the sweep when `stop_at` names one.
    """
    began = []

    def play(cfg, run):
        began.append(run.folder.name)
        if cfg.seed == 13:
            raise ValueError("seed must bring luck, got 13")
        if play.stop_at == run.folder.name:
            raise KeyboardInterrupt
        scores = {KID: {"value": cfg.model.make_opt_g.lr}}
        run.write_json(run.status, {"status": "done"})
        run.write_json(run.scores(), {"extractor": "efficientnet_lite0", "scores": scores})

    play.stop_at, play.began = None, began
    monkeypatch.setattr(train, "train_job", play)
    return play


def status(folder):
    return json.loads((folder / "run.json").read_text())


def test_the_folder_of_a_sweep_is_that_of_its_command():
    asked = ["model=dcgan,wgan_gp", "seed=0,1", "batch_size=4", "data.root=/a"]
    folder = sweep_folder(asked)
    assert folder == sweep_folder(["model=dcgan,wgan_gp", "seed=0,1", "data.root=/a", asked[2]])
    assert folder == sweep_folder(["model=dcgan,wgan_gp", "seed=0,1,2", *asked[2:]])  # more seeds
    assert folder != sweep_folder([*asked[:2], "batch_size=8", "data.root=/a"])


@pytest.mark.parametrize("value", ["a b", "a'b", "a,b=c", "a\\'b", "$x", "{a: [b", "back\\"])
def test_quoting_keeps_any_path_as_it_is(value):
    (override,) = OverridesParser.create().parse_overrides([f"resume={quoted(value)}"])
    assert override.value() == value


def test_jobs_are_named_by_what_varies_only():
    swept = ["model=dcgan", "magnification=10x+40x", "seed=3", "model.critic.use_norm=true"]
    assert job_name(swept) == "dcgan-10x+40x-seed3-use_normtrue"
    assert job_name(["data.root='/my images'"]) == "my_images"
    assert job_name(["+model.critic.width=4"]) == "width4"


def test_a_failure_is_recorded_the_rest_go_on_and_only_it_is_tried_again(
    call, job, sweep, played, tmp_path
):
    words = ["-m", *job, "model=dcgan,wgan_gp", "seed=0,13", f"hydra.sweep.dir={sweep}"]
    code, err = call(train.main, *words)
    assert code == 1
    folders = ["dcgan-seed0", "dcgan-seed13", "wgan_gp-seed0", "wgan_gp-seed13"]
    assert played.began == folders
    failed = [f"  {sweep}/{name}: seed must bring luck, got 13" for name in folders[1::2]]
    assert err.splitlines()[-3:] == ["error: 2 failed; the same command tries again:", *failed]
    assert "2 of 4 jobs done" in err
    assert "Traceback" not in err
    record = status(sweep / "dcgan-seed13")
    assert record == {"status": "failed", "error": "seed must bring luck, got 13"}
    played.began.clear()
    assert call(train.main, *words)[0] == 1
    assert played.began == folders[1::2]


def test_a_word_in_place_of_a_number_fails_its_job_alone(call, job, sweep, played):
    code, err = call(train.main, "-m", *job, "batch_size=4,many", f"hydra.sweep.dir={sweep}")
    assert code == 1
    assert err.splitlines()[-1].endswith("many: batch_size must be a number, got 'many'")
    assert status(sweep / "many")["status"] == "failed"
    assert status(sweep / "batch_size4")["status"] == "done"


def test_a_mistyped_sweep_is_refused_before_any_job(call, job, sweep, played):
    code, err = call(train.main, "-m", *job, "model=dcgan,wgangp", f"hydra.sweep.dir={sweep}")
    assert (code, played.began) == (1, [])
    assert "Could not find 'model/wgangp'" in err.splitlines()[-1]


def test_a_forecast_of_a_sweep_is_refused_before_any_job(call, job, sweep, played):
    words = ["-m", *job, "seed=0,1", "forecast=true", f"hydra.sweep.dir={sweep}"]
    code, err = call(train.main, *words)
    assert (code, played.began) == (1, [])
    assert "forecast must be false in a sweep" in err.splitlines()[-1]
    assert not sweep.exists()


def test_another_config_in_the_same_folder_is_refused(call, job, sweep):
    words = ["-m", *job, "model=dcgan", "seed=0,1", f"hydra.sweep.dir={sweep}"]
    run = Run(sweep / "seed0")
    run.checkpoint("last").parent.mkdir(parents=True)
    run.checkpoint("last").touch()
    (run.folder / ".hydra").mkdir()
    (run.folder / ".hydra/asked.yaml").write_text("total_images: 8\nseed: 0\n")
    code, err = call(train.main, *words)
    assert code == 1
    assert f"total_images must be as when {run.folder} was begun, 8, got 40" in err
    assert not (sweep / "seed1").exists()


def test_baselines_are_three_models_two_magnifications_and_three_seeds(
    call, job, sweep, played, tmp_path
):
    job = [word for word in job if not word.startswith("magnification")]
    code, err = call(train.main, "sweep=baselines", *job)
    assert code == 0, err
    assert len(set(played.began)) == 18
    assert {"wgan_gp-10x-seed0", "stylegan_lite-100x-seed2"} < set(played.began)
    (folder,) = (tmp_path / "multirun").iterdir()
    assert folder.name.startswith("baselines-")


def trials(folder):
    study = optuna.load_study(study_name="mbgan", storage=f"sqlite:///{folder}/study.db")
    return [(t.params, t.value, t.state.name) for t in study.trials]


def test_a_study_that_was_cut_off_goes_on_as_if_it_had_not_been(call, job, sweep, played):
    """The trial in work is done first, and the sampler asks for what it would have asked for."""
    search = ["sweep=optuna", *job, "model=dcgan", "seed=choice(0,1)", "hydra.sweeper.n_trials=13"]
    assert call(train.main, *search, f"hydra.sweep.dir={sweep}/whole")[0] == 0
    played.stop_at, search = "trial0011", [*search, f"hydra.sweep.dir={sweep}/cut"]
    played.began.clear()
    assert call(train.main, *search)[0] == 3
    assert trials(sweep / "cut")[11][2] == "RUNNING"
    played.stop_at = None
    code, err = call(train.main, *search)
    assert code == 0, err
    assert played.began[11:] == ["trial0011", "trial0011", "trial0012"]
    assert trials(sweep / "cut") == trials(sweep / "whole")
    done = trials(sweep / "cut")
    assert len({str(params) for params, *_ in done}) == 13
    assert all(value == params["model.make_opt_g.lr"] for params, value, _ in done)
    best = min(done, key=lambda trial: trial[1])
    assert f"best KID {best[1]:.4g}: model.make_opt_g.lr=" in err
    played.began.clear()
    assert call(train.main, *search)[0] == 0  # nothing is left to do
    assert played.began == []
    assert call(train.main, *search, "hydra.sweeper.n_trials=14")[0] == 0
    assert played.began == ["trial0013"]


def test_failed_trials_are_not_counted_by_the_next_call(call, job, sweep, played):
    search = ["sweep=optuna", *job, "model=dcgan", "seed=choice(13)", "hydra.sweeper.n_trials=2"]
    for count in (2, 4):
        code, err = call(train.main, *search, f"hydra.sweep.dir={sweep}")
        assert (code, len(played.began)) == (1, count)
        assert "seed must bring luck" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials must be at least 1, got 0"),
        (["hydra/launcher=joblub"], "Could not find 'hydra/launcher/joblub'"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_one_line(call, job, sweep, played, words, message):
    code, err = call(train.main, "sweep=optuna", *job, *words, f"hydra.sweep.dir={sweep}")
    assert code == 1
    assert message in err.splitlines()[-1]
    assert played.began == []


def test_a_missing_plugin_is_named_with_the_command_that_brings_it():
    from hydra.errors import HydraException

    from mbgan.verbs import one_line

    error = HydraException("Could not find 'hydra/launcher/joblib'\n\nAvailable options ...")
    assert one_line(error) == "hydra/launcher=joblib needs a plugin: pip install 'mbgan[joblib]'"


def test_the_reason_of_a_failure_is_the_first_error_line_and_not_torchruns(capfd):
    script = (
        "echo hello >&2; echo 'error on rank 1: no luck' >&2; "
        "echo 'E1124 09:00:00 1 torch/distributed/elastic/multiprocessing/api.py:1] x' >&2; "
        "echo Traceback >&2; exit 1"
    )
    assert run_relayed(["sh", "-c", script], dict(os.environ)) == "no luck"
    assert capfd.readouterr().err == "hello\nerror on rank 1: no luck\n"
    killed = run_relayed(["sh", "-c", "echo bye >&2; kill -9 $$"], dict(os.environ))
    assert killed == "exit code -9: bye"


def test_jobs_train_as_they_would_alone_and_leave_their_records(call, job, sweep, tmp_path):
    """Neither the job before, in another number format, nor a failed one changes a number."""
    varying = ["trainer.precision=bf16-mixed,32-true", "model.n_critic=2"]
    code, err = call(train.main, "-m", *job, *varying, f"hydra.sweep.dir={sweep}")
    assert code == 0, err
    alone = ["trainer.precision=32-true", f"hydra.run.dir={tmp_path}/alone"]
    assert call(train.main, *job, *alone)[0] == 0
    first, second = sweep / "bf16-mixed", sweep / "32-true"
    assert status(first)["precision"] == "bf16-mixed"
    assert status(second)["status"] == "done"
    assert_same_training(second, tmp_path / "alone")
    assert (second / ".hydra/config.yaml").is_file()


def test_a_job_that_fails_in_its_own_process_is_told_by_its_reason(call, job, sweep):
    words = [*job, "model.n_critic=0,-1", f"hydra.sweep.dir={sweep}"]
    code, err = call(train.main, "-m", *words)
    assert code == 1
    first, second = err.splitlines()[-2:]
    assert first.endswith("n_critic0: n_critic must be at least 1, got 0")
    assert second.endswith("n_critic-1: n_critic must be at least 1, got -1")
    assert status(sweep / "n_critic0")["error"] == "n_critic must be at least 1, got 0"


def test_a_killed_sweep_goes_on_where_it_was_cut_off(call, job, sweep, tmp_path):
    """kill -9 of the sweep in mid-job; the job's own process must not train beside the next."""
    words = [*job, "total_images=800", "eval_every=100"]
    asked = ["-m", *words, "seed=0,1", f"hydra.sweep.dir={sweep}"]
    victim = process(asked)
    wait_for(sweep / "seed0/checkpoints/last.ckpt", victim)
    victim.kill()
    victim.wait()
    assert not (sweep / "seed1").exists()
    code, err = call(train.main, *asked)
    assert code == 0, err
    assert status(sweep / "seed0")["earlier"], "it was over before it was killed"
    assert call(train.main, *words, "seed=0", f"hydra.run.dir={tmp_path}/alone")[0] == 0
    assert_same_training(sweep / "seed0", tmp_path / "alone")
    assert rows(sweep / "seed0") == rows(tmp_path / "alone")
    assert status(sweep / "seed1")["images_seen"] >= 800


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_saves_its_job_and_ends(job, sweep, number):
    endless = [*job, "total_images=1_000_000", "eval_every=500_000"]
    victim = process(["-m", *endless, "seed=0,1", f"hydra.sweep.dir={sweep}"])
    wait_for(sweep / "seed0/run.json", victim)
    victim.send_signal(number)
    _, err = victim.communicate(timeout=120)
    assert victim.returncode == 3, err
    assert status(sweep / "seed0")["status"] == "interrupted"
    assert (sweep / "seed0/checkpoints/last.ckpt").is_file()
    assert not (sweep / "seed1").exists()


@pytest.fixture
def ranks(monkeypatch):
    """Overrides for two ranks that leave their weights behind."""
    tests = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))
    each = "+callbacks.each={_target_: two_ranks.SaveRank, run_dir: '${run_dir}'}"
    return ["trainer=ddp_cpu", "trainer.devices=2", each]


def assert_ranks_agree(run):
    first, second = (torch.load(run / f"rank{i}.pt") for i in (0, 1))
    for name, value in first.items():
        if "running_" not in name:  # each rank's own: batch norm sees its share
            assert torch.equal(value, second[name]), name


@pytest.mark.ddp
def test_a_job_on_two_ranks_trains_as_the_plain_run_does(call, job, sweep, ranks, tmp_path):
    """Lightning would start each rank as a whole sweep of its own, with half of the data."""
    code, err = call(train.main, "-m", *job, *ranks, "seed=0,1", f"hydra.sweep.dir={sweep}")
    assert code == 0, err
    plain = process([*job, *ranks, "seed=1", f"hydra.run.dir={tmp_path}/plain"])
    assert plain.wait(timeout=300) == 0, plain.communicate()[1]
    for folder in (sweep / "seed0", sweep / "seed1", tmp_path / "plain"):
        assert status(folder)["devices"] == 2
        assert_ranks_agree(folder)
    assert_same_training(sweep / "seed1", tmp_path / "plain")
    assert rows(sweep / "seed1") == rows(tmp_path / "plain")


@pytest.mark.ddp
@pytest.mark.slow
def test_a_study_of_jobs_on_two_ranks_learns_their_scores(call, job, sweep, ranks):
    search = ["sweep=optuna", *job, *ranks, "model=dcgan", "hydra.sweeper.n_trials=4"]
    search += ["eval_every=8", "callbacks.pruning.pruner.n_startup_trials=1"]
    code, err = call(train.main, *search, f"hydra.sweep.dir={sweep}")
    assert code == 0, err
    states = []
    for i, (params, value, state) in enumerate(trials(sweep)):
        folder = sweep / f"trial{i:04d}"
        assert_ranks_agree(folder)
        config = (folder / ".hydra/config.yaml").read_text()
        assert all(str(lr) in config for lr in params.values())
        states.append(state)
        if state == "COMPLETE":
            scores = json.loads((folder / "scores.json").read_text())["scores"]
            assert value == scores[KID]["value"]
        else:
            assert state == "PRUNED"
            assert status(folder)["pruned"]
            assert status(folder)["images_seen"] < 40
            assert not (folder / "scores.json").exists()
    assert {"COMPLETE", "PRUNED"} == set(states)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_every_launcher_trains_the_same(call, job, sweep, tmp_path, launcher):
    if launcher == "ray":
        pytest.importorskip("ray")
    choice = [f"hydra/launcher={launcher}", f"hydra.sweep.dir={sweep}", "model.n_critic=2,0"]
    if launcher == "joblib":
        choice.append("hydra.launcher.n_jobs=2")
    code, err = call(train.main, "-m", *job, *choice)
    assert code == 1
    assert err.splitlines()[-1].endswith("n_critic0: n_critic must be at least 1, got 0")
    assert call(train.main, *job, f"hydra.run.dir={tmp_path}/alone")[0] == 0
    assert_same_training(sweep / "n_critic2", tmp_path / "alone")


def test_slurm_without_slurm_is_told_in_one_line(call, job, sweep):
    code, err = call(train.main, *job, "trainer=slurm")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: trainer=slurm and submitit_slurm need a machine")


def test_several_nodes_without_slurm_are_refused(monkeypatch):
    monkeypatch.delenv("SLURM_NNODES", raising=False)
    assert rendezvous(1) == ["--standalone"]
    with pytest.raises(ValueError, match="num_nodes must be what SLURM gave this job, 1, got 2"):
        rendezvous(2)


def test_a_line_a_job_says_where_each_stands(tmp_path):
    runs = {name: Run(tmp_path / name) for name in ("done", "training", "pruned", "next")}
    for name, record in {
        "done": {"status": "done"},
        "training": {"status": "running"},
        "pruned": {"status": "done", "pruned": True},
    }.items():
        runs[name].write_json(runs[name].status, record)
    runs["done"].write_json(
        runs["done"].scores(), {"extractor": "e", "scores": {"kid/e": {"value": 0.5}}}
    )
    runs["training"].write_metrics([{"images_seen": 1200, "kid/e": 0.25}])
    console = Console(file=io.StringIO(), width=60)
    console.print(job_table(runs, height=3))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert lines == [
        ["job", "state", "images", "seen", "KID"],
        ["training", "running", "1,200", "0.25"],
        ["done", "done", "0", "0.5"],
        ["pruned", "pruned", "0"],
        ["1", "running,", "1", "done,", "1", "pruned,", "1", "waiting"],
    ]

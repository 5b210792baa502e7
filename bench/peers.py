"""What peers take for the same: trivial trials, no training. Run by scripts/bench peers in a virtual environment of its own.

Optuna: ask and tell on SQLite, one process. Ray Tune: a function that reports once. Prints one JSON object a line.
"""

import json
import os
import sys
import tempfile
import time


def say(**figure):
    print(json.dumps(figure), flush=True)


def optuna_ask_tell(trials: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(
            storage=f"sqlite:///{folder}/study.db", sampler=optuna.samplers.RandomSampler(seed=1), direction="maximize"
        )
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(trials):
            trial = study.ask()
            value = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
            study.tell(trial, value)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    say(
        peer=f"Optuna {optuna.__version__}",
        what=f"{trials} trials asked and told, SQLite",
        wall_ms=wall / trials * 1e3,
        cpu_ms=cpu / trials * 1e3,
    )


def ray_tune(trials: int) -> None:
    import ray
    from ray import tune

    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    def trial(config):
        tune.report({"value": config["lr"]})

    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            trial,
            param_space={"lr": tune.loguniform(1e-5, 1e-1)},
            tune_config=tune.TuneConfig(num_samples=trials, metric="value", mode="max"),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        start = time.perf_counter()
        tuner.fit()
        wall = time.perf_counter() - start
    ray.shutdown()
    # Each trial has a process of its own: this is no pure overhead of the scheduler.
    say(peer=f"Ray {ray.__version__}", what=f"{trials} trivial trials with Tune, 2 processors", wall_ms=wall / trials * 1e3)


for job in (lambda: optuna_ask_tell(1000), lambda: optuna_ask_tell(10000), lambda: ray_tune(200)):
    try:
        job()
    except ImportError as missing:
        print(f"left out: {missing}", file=sys.stderr)

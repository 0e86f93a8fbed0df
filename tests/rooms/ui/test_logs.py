"""Logs of five programs are recognised and read in base units; what they do not say stays unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datahall.base.errors import UsageError
from datahall.ui.logs.detect import read_log
from datahall.ui.logs.steps import TrainingLog, middle


def torchtitan_lines(tps: int = 6_123, steps: int = 12) -> str:
    line = (
        "[titan] 2026-03-01 10:00:{s:02} - root - INFO - \x1b[31mstep: {n:2}  \x1b[32mloss: {loss:8.5f}  "
        "\x1b[38;2;180;60;0mgrad_norm:  1.2345  \x1b[38;2;54;234;195mmemory: 38.50GiB(81.10%)  "
        "\x1b[34mtps: {tps:,}  \x1b[36mtflops: 290.11  \x1b[35mmfu: 29.33%\x1b[39m"
    )
    start = "[titan] 2026-03-01 10:00:00 - root - INFO - Starting job: llama3\n"
    first = line.format(s=1, n=1, loss=12.2, tps=700)
    return start + "\n".join([first, *(line.format(s=n, n=10 * n, loss=8.1, tps=tps) for n in range(1, steps))]) + "\n"


def megatron_lines(seconds: float = 4.0, batch: int = 64, steps: int = 6, timers: bool = True) -> str:
    lines = ["> building train, validation, and test datasets ..."]
    for n in range(1, steps + 1):
        took = seconds * 1000 if n > 1 else 60_000.0
        lines.append(
            f" [2026-03-01 10:00:{n:02}.123456] iteration {n:8d}/     100 | consumed samples: {n * batch:12d} |"
            f" elapsed time per iteration (ms): {took:.1f} | throughput per GPU (TFLOP/s/GPU): 412.3 |"
            f" learning rate: 1.000000E-04 | global batch size: {batch:5d} | lm loss: 8.123456E+00 | loss scale: 1.0 |"
            " grad norm: 1.234 | number of skipped iterations:   0 | number of nan iterations:   0 |"
        )
        if n == 1:
            lines.append(
                "[Rank 0] (after 1 iterations) memory (MB) | allocated: 10240.0 | max allocated: 38912.5 |"
                " reserved: 40000.0 | max reserved: 40960.0"
            )
        if timers:
            lines += [
                "(min, max) time across ranks (ms):",
                f"    forward-backward ...............................: (2000.10, {0.95e3 * seconds:.2f})",
                f"    all-grads-sync .................................: (100.10, {0.25e3 * seconds:.2f})",
                f"    optimizer ......................................: (10.10, {0.05e3 * seconds:.2f})",
            ]
    return "\n".join(lines) + "\n"


def deepspeed_lines(rate: float = 16.0, steps: int = 5) -> str:
    lines = []
    for n in range(1, steps + 1):
        lines += [
            f"[2026-03-01 10:00:{n:02},100] [INFO] [logging.py:96:log_dist] [Rank 0] step={n * 10}, skipped=0,"
            " lr=[0.0001], mom=[(0.9, 0.95)]",
            f"[2026-03-01 10:00:{n:02},101] [INFO] [timer.py:264:stop] epoch=0/micro_step={n * 40}/"
            f"global_step={n * 10}, RunningAvgSamplesPerSec={rate - 1}, CurrSamplesPerSec={rate},"
            " MemAllocated=4.32GB, MaxMemAllocated=38.49GB",
            f"[2026-03-01 10:00:{n:02},102] [INFO] [logging.py:96:log_dist] [Rank 0] time (ms) | fwd: 900.00 |"
            " bwd: 2100.00 | bwd_inner: 1700.00 | bwd_allreduce: 400.00 | step: 200.00",
        ]
    return "\n".join(lines) + "\n"


def trainer_lines(seconds: float = 4.0, steps: int = 100) -> str:
    text = ""
    for n in range(0, steps + 1, 5):
        at = int(n * seconds) + 30 * (n > 0)
        text += f"\r {n}%|███       | {n}/{steps} [{at // 60:02}:{at % 60:02}<10:00,  {seconds:.2f}s/it]"
        if n % 20 == 0:
            text += "\n{'loss': '1.153', 'grad_norm': '0.9809', 'learning_rate': '7.091e-05', 'epoch': '0.7763'}\n"
    return text + "\n{'train_runtime': 430.5, 'train_samples_per_second': 14.9, 'train_steps_per_second': 0.232}\n"


def foundry_lines(rate: float = 0.25, steps: int = 6) -> str:
    text = ""
    for n in range(1, steps + 1):
        text += f"[batch={n}/100]:\n"
        for name, value in {
            "time/batch": n - 1,
            "memory/peak_reserved_mem": 41.5,
            "loss/train/total": 8.42,
            "throughput/batches_per_sec": rate,
            "throughput/samples_per_sec": 64 * rate,
            "throughput/device/tokens_per_sec": 64 * rate * 4096 / 16,
        }.items():
            text += f"\t Train {name}: {value}\n"
    return text


def read(tmp_path: Path, text: str) -> TrainingLog:
    (tmp_path / "train.log").write_text(text)
    return read_log(tmp_path / "train.log")


def test_torchtitan(tmp_path: Path) -> None:
    log = read(tmp_path, torchtitan_lines())
    assert log.program == "torchtitan"
    assert len(log.steps) == 12
    assert middle([step.tokens_per_s_per_device for step in log.steady()]) == 6123
    assert log.steps[3].memory_bytes == 38.5 * 2**30
    assert log.steps[0].loss == 12.2


def test_torchtitan_as_json_tells_the_wait_for_data(tmp_path: Path) -> None:
    record = {
        "step": 10,
        "throughput(tps)": 6123.4,
        "time_metrics/end_to_end(s)": 4.2,
        "time_metrics/data_loading(s)": 0.3,
        "memory/max_reserved(GiB)": 38.5,
        "loss_metrics/global_avg_loss": 8.1,
    }
    log = read(tmp_path, "\n".join(json.dumps({**record, "step": n}) for n in range(5)))
    assert log.program == "torchtitan"
    assert log.steps[2].seconds == 4.2
    assert log.steps[2].parts == {"input": 0.3}


def test_megatron_with_its_timers(tmp_path: Path) -> None:
    log = read(tmp_path, megatron_lines())
    assert log.program == "megatron-lm"
    step = log.steady()[2]
    assert step.seconds == 4.0
    assert step.global_batch == 64
    assert step.memory_bytes == 40960.0 * 2**20
    assert step.parts == pytest.approx({"compute": 2.8, "transfer": 1.0, "optimiser": 0.2})


def test_megatrons_timers_that_lie_inside_others_are_not_counted_twice(tmp_path: Path) -> None:
    """Its schedules wait for gradients before the passes' timer stops, its optimiser gathers before its own does."""
    timers = {"forward-backward": 3600.0, "batch-generator": 100.0, "all-grads-sync": 500.0}
    timers |= {"optimizer": 400.0, "params-all-gather": 150.0}
    wanted = {"compute": 3.0, "transfer": 0.65, "optimiser": 0.25, "input": 0.1}
    for head, form in (("(min, max) time", "(1.00, {:.2f})"), ("max time", "{:.2f}")):
        lines = [f"    {name + ' ':.<48}: {form.format(value)}" for name, value in timers.items()]
        text = megatron_lines(timers=False) + f"{head} across ranks (ms):\n" + "\n".join(lines) + "\n"
        assert read(tmp_path, text).steps[-1].parts == pytest.approx(wanted)


def test_megatron_without_timers_has_only_totals(tmp_path: Path) -> None:
    log = read(tmp_path, megatron_lines(timers=False))
    assert all(not step.parts for step in log.steps)
    assert "timing-log-level" in log.hint


def test_megatrons_memory_is_what_was_reserved_whatever_follows_it(tmp_path: Path) -> None:
    """--log-device-memory-used adds a figure of its own; older releases print the most allocated alone."""
    plain = megatron_lines()
    used = plain.replace("max reserved: 40960.0", "max reserved: 40960.0 | total device memory used: 50000.0")
    assert read(tmp_path, used).steps[0].memory_bytes == 40960.0 * 2**20
    old = plain.replace(" | reserved: 40000.0 | max reserved: 40960.0", "")
    assert read(tmp_path, old).steps[0].memory_bytes == 38912.5 * 2**20


def test_deepspeed(tmp_path: Path) -> None:
    log = read(tmp_path, deepspeed_lines())
    assert log.program == "deepspeed"
    assert [step.step for step in log.steps] == [10, 20, 30, 40, 50]
    step = log.steps[2]
    assert step.samples_per_s == 16.0
    assert step.memory_bytes == pytest.approx(38.49 * 2**30)
    assert step.parts == pytest.approx({"compute": 2.6, "transfer": 0.4, "optimiser": 0.2})


def test_an_older_deepspeed_line(tmp_path: Path) -> None:
    line = "[2022-08-29 06:58:56,176] [INFO] [timer.py:198:stop] 0/20, "
    line += "RunningAvgSamplesPerSec=232.7, CurrSamplesPerSec=227.4"
    assert read(tmp_path, line + "\n").steps[0].step == 20


def test_the_trainers_bars_leave_start_up_out(tmp_path: Path) -> None:
    log = read(tmp_path, trainer_lines())
    assert log.program == "huggingface-trainer"
    assert middle([step.seconds for step in log.steady()]) == 4.0
    assert log.steps[-1].loss == 1.153


def test_the_trainers_summary_and_state(tmp_path: Path) -> None:
    summary = "{'train_runtime': 2457.0749, 'train_samples_per_second': 1.058, 'train_steps_per_second': 0.132}"
    assert read(tmp_path, summary).steps[0].samples_per_s == 1.058
    history = [
        {"loss": 2.0, "step": 5},
        {"train_runtime": 100.0, "train_samples_per_second": 8.0, "train_steps_per_second": 1.0},
    ]
    for indent in (1, None):
        state = json.dumps({"log_history": history, "global_step": 5}, indent=indent)
        assert read(tmp_path, state).steps[0].samples_per_s == 8.0


def test_logs_of_the_trainer_with_too_few_times_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    record = {"loss": 2.0, "learning_rate": 1e-4, "epoch": 0.1, "train_runtime": 12.5, "step": 10}
    with pytest.raises(UsageError, match="has 1 logs and no two of one session"):
        read(tmp_path, json.dumps(record))
    printed = {name: value for name, value in record.items() if name != "step"}
    with pytest.raises(UsageError, match="do not say of which step") as refused:
        read(tmp_path, f"{printed}\n{printed}\n")
    assert "trainer_state.json" in refused.value.hint


def test_no_stretch_of_the_trainer_goes_over_a_restart(tmp_path: Path) -> None:
    """Whether the clock of the session after it reads less than before, or more by chance (a slow first step)."""

    def record(step: int, runtime: float, tokens: int) -> dict[str, object]:
        told = {"num_input_tokens_seen": 100 * step, "train_tokens_per_second": round(tokens / runtime, 3)}
        return {"loss": 2.0, "learning_rate": 1e-4, "epoch": 0.1, "step": step, "train_runtime": runtime, **told}

    first = [record(10, 50.0, 1000), record(20, 90.0, 2000)]
    for began in (60.0, 100.0):
        second = [record(30, began, 1000), record(40, began + 40.0, 2000)]
        log = read(tmp_path, "\n".join(map(json.dumps, first + second)))
        assert [(step.step, step.seconds) for step in log.steps] == [(20, 4.0), (40, 4.0)]


def test_the_trainers_hint_promises_nothing_that_is_not_read(tmp_path: Path) -> None:
    log = read(tmp_path, trainer_lines())
    assert "include_num_input_tokens_seen" not in log.hint
    assert "MeterCallback" in log.hint


def test_llm_foundry(tmp_path: Path) -> None:
    log = read(tmp_path, foundry_lines())
    assert log.program == "llm-foundry"
    step = log.steps[3]
    assert step.seconds == 4.0
    assert step.global_batch == 64
    assert step.memory_bytes == 41.5e9


def test_llm_foundry_as_json(tmp_path: Path) -> None:
    lines = [
        json.dumps({"batch": n, "throughput/batches_per_sec": 0.5, "throughput/samples_per_sec": 32}) for n in range(4)
    ]
    log = read(tmp_path, "\n".join(lines))
    assert (log.program, log.steps[1].seconds, log.steps[1].global_batch) == ("llm-foundry", 2.0, 64)


@pytest.mark.parametrize(
    "label",
    [
        *("[default7]:", "[rank63]:", "63: ", " 0: ", "[1,3]<stdout>:"),
        *("(RayTrainWorker pid=123, ip=10.0.0.7) ", "\x1b[36m(train_fn pid=9)\x1b[0m [rank0]:"),
        *("2026-03-01T10:00:00.123456789Z ", "2026-03-01T10:00:00.123456789+02:00 stdout F ", "[pod/job-0-xyz/main] "),
        "[pod/job-0-xyz/main] 2026-03-01T10:00:00Z [default0]:",
    ],
)
def test_what_launchers_put_before_a_line_hides_nothing(tmp_path: Path, label: str) -> None:
    labelled = "".join(f"{label}{line}\n" for line in megatron_lines().splitlines())
    assert read(tmp_path, labelled) == read(tmp_path, megatron_lines())


def test_a_step_that_several_ranks_log_is_one_step(tmp_path: Path) -> None:
    lines = torchtitan_lines().splitlines()
    more = [f"[rank1]:{line}".replace("38.50GiB", "39.50GiB") for line in lines]
    log = read(tmp_path, "".join(f"[rank0]:{a}\n{b}\n" for a, b in zip(lines, more, strict=True)))
    assert [step.step for step in log.steps] == [1, *range(10, 120, 10)]
    assert {step.memory_bytes for step in log.steps} == {39.5 * 2**30}  # the fullest rank's


def test_steps_that_a_log_does_not_number_are_all_counted(tmp_path: Path) -> None:
    record = {"throughput(tps)": 6123.4, "time_metrics/end_to_end(s)": 4.2}
    assert len(read(tmp_path, "\n".join([json.dumps(record)] * 5)).steps) == 5


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_logs_of_windows(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(torchtitan_lines().replace("\n", "\r\n").encode(encoding))
    assert read_log(path) == read(tmp_path, torchtitan_lines())


def test_validation_is_no_step_of_training(tmp_path: Path) -> None:
    line = "[titan] 2026-03-01 10:00:59 - root - INFO - \x1b[33mvalidate step: {n:2}  \x1b[32mloss:  7.1  "
    line += "\x1b[38;2;54;234;195mmemory: 38.50GiB(81.10%)  \x1b[34mtps: 20,000\x1b[39m\n"
    assert read(tmp_path, torchtitan_lines() + line.format(n=10) * 30) == read(tmp_path, torchtitan_lines())


def test_other_bars_of_the_trainer_are_no_training(tmp_path: Path) -> None:
    data = "".join(f"\rMap:  {n}%|█ | {n}000/100000 [01:{n % 60:02}<01:00, 512.1 examples/s]" for n in range(101))
    data += "".join(f"\rMap:  {n}%|█ | {n}000/100000 [59:{n % 60:02}<01:00, 512.1 examples/s]" for n in range(60))
    judged = "".join(f"\r {n}%|█ | {n}/500 [{n // 60:02}:{n % 60:02}<05:00,  1.00s/it]" for n in range(200))
    assert read(tmp_path, data + "\n" + trainer_lines() + judged) == read(tmp_path, trainer_lines())


def test_deepspeeds_rates_are_of_its_own_batch(tmp_path: Path) -> None:
    """With two tensor ranks it counts 128 sequences where 64 were trained on, in the batch and in the rate alike."""
    printed = "[2026-03-01 10:00:00,000] [INFO] [config.py:1000:print]   train_batch_size ............. 128\n"
    step = read(tmp_path, printed + deepspeed_lines(32.0)).steps[2]
    assert (step.seconds, step.global_batch) == (4.0, 128)


def test_a_log_of_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no training step"):
        read(tmp_path, "hello\nstep by step\n{}\n{'a': 1}\n")
    with pytest.raises(UsageError, match="cannot be read"):
        read_log(tmp_path / "none.log")


def test_a_log_cut_in_the_middle_reads_to_its_end(tmp_path: Path) -> None:
    whole = megatron_lines()
    assert len(read(tmp_path, whole[: len(whole) // 2]).steps) >= 3

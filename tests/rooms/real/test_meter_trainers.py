"""The meter inside of Hugging Face's and Lightning's trainers, where these are installed."""

import pytest
import torch
from torch import nn

WIDTH, BATCH, STEPS = 16, 4, 5


def _data():
    torch.manual_seed(0)
    return torch.utils.data.TensorDataset(torch.randn(BATCH * STEPS, WIDTH), torch.randn(BATCH * STEPS, 1))


def _check(result):
    assert result.counts["steps"] == STEPS
    assert result.counts["samples"] == STEPS * BATCH
    assert result.counts["matmul_flops"] == STEPS * (2 + 2) * BATCH * WIDTH  # inputs need no gradient
    assert result.metrics["compute"].value > 0
    assert result.metrics["optimiser"].value > 0


def test_a_hugging_face_trainer_is_measured(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from datahall.real.meter_huggingface import MeterCallback

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(WIDTH, 1)

        def forward(self, inputs, labels):
            output = self.layer(inputs)
            return {"loss": nn.functional.mse_loss(output, labels), "output": output}

    rows = [{"inputs": inputs, "labels": labels} for inputs, labels in _data()]
    options = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    callback = MeterCallback(tmp_path / "run")
    transformers.Trainer(Net(), options, train_dataset=rows, callbacks=[callback]).train()
    _check(callback.result)


def test_a_lightning_trainer_is_measured(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from datahall.real.meter_lightning import MeterCallback

    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(WIDTH, 1)

        def training_step(self, batch, index):
            inputs, targets = batch
            return nn.functional.mse_loss(self.layer(inputs), targets)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = MeterCallback(tmp_path / "run")
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(), torch.utils.data.DataLoader(_data(), batch_size=BATCH))
    _check(callback.result)

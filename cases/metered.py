"""Three scripts that datahall does not launch, each with its meter: a plain loop, Hugging Face's Trainer, Lightning.

    python cases/metered.py loop|trainer|lightning FOLDER

The model is transformers' own Llama, of the shape that cases/metered.yaml states.
"""

import sys

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM

STEPS, BATCH, SEQUENCE = 12, 8, 64


def llama() -> LlamaForCausalLM:
    """The model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=SEQUENCE, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Bytes(Dataset):
    """This file's own bytes, over and over."""

    def __init__(self) -> None:
        with open(__file__, "rb") as file:
            text = file.read()
        size = STEPS * BATCH * SEQUENCE
        self.tokens = torch.tensor(list(text * (size // len(text) + 1))[:size])

    def __len__(self) -> int:
        return STEPS * BATCH

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = self.tokens[index * SEQUENCE : (index + 1) * SEQUENCE]
        return {"input_ids": tokens, "labels": tokens}


def loop(folder: str):
    """A loop of one's own."""
    import datahall

    model = llama()
    optimiser = torch.optim.AdamW(model.parameters())
    with datahall.meter(folder, model, tokens_per_step=BATCH * SEQUENCE) as meter:
        for batch in meter.batches(DataLoader(Bytes(), batch_size=BATCH)):
            loss = model(**batch).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    return meter.result


def trainer(folder: str):
    """Hugging Face's Trainer."""
    from transformers import Trainer, TrainingArguments

    from datahall.real.meter_huggingface import MeterCallback

    callback = MeterCallback(folder, tokens_per_step=BATCH * SEQUENCE)
    options = TrainingArguments(
        output_dir=f"{folder}-out", per_device_train_batch_size=BATCH, max_steps=STEPS, save_strategy="no",
        report_to=[], use_cpu=not torch.cuda.is_available(), disable_tqdm=True,
    )  # fmt: skip
    Trainer(llama(), options, train_dataset=Bytes(), callbacks=[callback]).train()
    return callback.result


def lightning(folder: str):
    """Lightning's Trainer."""
    import lightning.pytorch as pl

    from datahall.real.meter_lightning import MeterCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = llama()

        def training_step(self, batch, index):
            return self.model(**batch).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    callback = MeterCallback(folder, tokens_per_step=BATCH * SEQUENCE)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    fit = pl.Trainer(max_steps=STEPS, callbacks=[callback], enable_model_summary=False, **quiet).fit
    fit(Module(), DataLoader(Bytes(), batch_size=BATCH))
    return callback.result


if __name__ == "__main__":
    print({"loop": loop, "trainer": trainer, "lightning": lightning}[sys.argv[1]](sys.argv[2]))

"""The library's own `Trainer` set for speed on a CPU: batches grouped by length and padded to their longest text, fused
AdamW, nothing logged, reported or saved, scoring in wide batches sorted by length.

Same rows and number of updates; the order is its own, since batches of like length are the point. Needs `accelerate`.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from benchmarks.peers.job import Answer, Job, serve
from benchmarks.peers.released import redraw

SCORING_BATCH = 64


class _Clock(TrainerCallback):
    """Reads the clocks before the first step and after each, and stops when told."""

    def __init__(self, answer: Answer, most_steps: int | None) -> None:
        self._answer, self._most_steps = answer, most_steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002  the library's names
        self._answer.tick()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._answer.tick()
        if state.global_step == self._most_steps:
            control.should_training_stop = True


def run(job: Job, answer: Answer) -> None:
    """Train and score."""
    set_seed(job.seed)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForSequenceClassification.from_pretrained(job.model, num_labels=2)
    redraw(model, job.redrawn)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                seed=job.seed,
                use_cpu=True,
                num_train_epochs=len(job.orders),
                per_device_train_batch_size=job.batch_size,
                per_device_eval_batch_size=SCORING_BATCH,
                train_sampling_strategy="group_by_length",
                learning_rate=job.learning_rate,
                lr_scheduler_type="linear",
                weight_decay=0.0,
                max_grad_norm=job.grad_clip,
                optim="adamw_torch_fused",
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=_features(tokenizer, job.texts, job.labels, job.max_length),
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            callbacks=[_Clock(answer, job.most_steps)],
        )
        trainer.train()
        if job.most_steps is not None:
            return
        scored = _features(tokenizer, job.scored_texts, job.scored_labels, job.max_length)
        said = trainer.predict(sorted(scored, key=lambda row: len(row["input_ids"])))  # type: ignore[arg-type]
        answer.score = float(np.mean(np.argmax(said.predictions, axis=-1) == said.label_ids))


def _features(tokenizer: Any, texts: list[str], labels: list[int], max_length: int) -> Any:
    """A list of rows, which is a data set to the library, without padding."""
    encoded = tokenizer(texts, truncation=True, max_length=max_length)
    return [
        {**{name: values[row] for name, values in encoded.items()}, "label": label} for row, label in enumerate(labels)
    ]


if __name__ == "__main__":
    serve(run)

"""The released recipe (Tamkin et al. 2020, `run_glue.py` of its time) on today's transformers: a fresh process a run.

Texts padded to `max_length`, batches in the order asked, AdamW and clipping one parameter after another, the loss read
at each step; then the model is saved, loaded again from its files, and scored in batches of the training's size.
Redrawn layers get BERT's own initialisation.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup, set_seed

from benchmarks.peers.job import Answer, Job, serve


def run(job: Job, answer: Answer) -> None:
    """Train, save, load and score."""
    set_seed(job.seed)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForSequenceClassification.from_pretrained(job.model, num_labels=2)
    redraw(model, job.redrawn)
    features = tokenizer(
        job.texts, padding="max_length", truncation=True, max_length=job.max_length, return_tensors="pt"
    )
    labels = torch.tensor(job.labels)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=job.learning_rate, eps=1e-8, weight_decay=0.0, foreach=False, fused=False
    )
    schedule = get_linear_schedule_with_warmup(optimiser, 0, job.steps)  # type: ignore[no-untyped-call]
    model.train()
    answer.tick()
    for order in job.orders:
        for start in range(0, len(order), job.batch_size):
            rows = torch.tensor(order[start : start + job.batch_size])
            loss = model(**{name: values[rows] for name, values in features.items()}, labels=labels[rows]).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), job.grad_clip)
            optimiser.step()
            schedule.step()
            model.zero_grad()
            answer.losses.append(loss.item())
            answer.tick()
            if len(answer.losses) == job.most_steps:
                return
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        answer.score = _score(AutoModelForSequenceClassification.from_pretrained(folder), tokenizer, job)


def redraw(model: Any, layers: list[int]) -> None:
    """Initialise these layers of a BERT anew, as BERT was: N(0, .02), biases 0, LayerNorm 1 and 0."""
    for index in layers:
        for module in model.bert.encoder.layer[index].modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=model.config.initializer_range)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()


def _score(model: Any, tokenizer: Any, job: Job) -> float:
    model.eval()
    right = 0
    for start in range(0, len(job.scored_texts), job.batch_size):
        texts = job.scored_texts[start : start + job.batch_size]
        labels = torch.tensor(job.scored_labels[start : start + job.batch_size])
        batch = tokenizer(texts, padding="max_length", truncation=True, max_length=job.max_length, return_tensors="pt")
        with torch.no_grad():
            right += int((model(**batch).logits.argmax(-1) == labels).sum())
    return right / len(job.scored_labels)


if __name__ == "__main__":
    serve(run)

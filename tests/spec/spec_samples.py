"""Specs to test with."""

from __future__ import annotations

SMALL = "version: 1\nprune: [{structure: channel, amount: 0.5}]\n"

# Every key of every section.
WHOLE = """\
version: 1
data:
  train: {inputs: {image: train.npz}, labels: labels.npy, limit: 100}
  evaluate: {inputs: {image: "test.npz#x"}, labels: test.npy}
  preprocess:
    - {scale: 0.00392156862745098, inputs: [image]}
    - {normalize: {mean: [0.1307], std: [0.3081]}}
  batch_size: 32
objective:
  {loss: cross_entropy, metric: accuracy, output: logits, distill: {weight: 0.5, temperature: 4.0}}
train: {include: ["scale*"], exclude: [head, "*.bias"], statistics: running}
prune:
  - {layers: "*", structure: channel, amount: 0.7, unit: channels, round_to: 8, min_channels: 2}
  - {layers: ["fc*", "/head/Gemm"], structure: unstructured, amount: 0.95, unit: parameters}
quantize:
  - layers: "conv*"
    weights: {bits: 8, granularity: channel}
    activations: {bits: 8, calibrate: percentile, percentile: 99.9, samples: 512, signed: false}
schedule:
  epochs: 20
  retrain: 10
  steps: 2
  updates_per_epoch: 3
  optimizer: {name: SGD, lr: 1e-3, weight_decay: 1.0e-4, momentum: 0.8, options: {nesterov: true}}
  lr_schedule: {name: StepLR, options: {step_size: 3}, every: epoch, restart: phase}
  warmup: 1
  clip_norm: 5.0
  clip_value: 0.5
  ema: 0.999
  rho: {initial: 0.001, growth: 1.2, maximum: 5.0}
  tolerance: 0.002
benchmark: {providers: [cpu], batch_sizes: [1, 64], threads: 2, rounds: 50}
gates:
  max_drop: {accuracy: 0.001}
  min_speedup: {cpu: 2.0}
  max_latency_ms: {cpu: 3.5}
  max_file_bytes: 50000
  min_compression: 2.5
seed: 7
"""

"""A training loop of your own under a defense, and what a server learns from one of its gradients.

    python own_loop.py

Nothing of it is the benchmark's: model, data and loop are yours, and a defense is one call.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attacks import InvertingGradients, Observation
from attacks.identification import Candidates, Identifier
from defenses import NoisyGradients

torch.manual_seed(0)
# 256 images of two classes: a bright square on the left, or on the right. They are their own normalisation: mean 0, std 1.
labels = torch.randint(2, (256,))
images = torch.rand(256, 1, 16, 16) / 4
for image, label in zip(images, labels, strict=True):
    top, left = torch.randint(8, ()), int(label) * 8 + torch.randint(3, ())
    image[0, top:top + 6, left:left + 5] += 0.7

model = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 8 * 8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)

private = NoisyGradients(std=1e-3).make_private(module=model, optimizer=optimizer, data_loader=loader)

# What a server holds of one client before the training: its gradient, and the model.
x, y = images[:1], labels[:1]
private.module.eval()
observation = Observation(
    module=private.module,
    # Of one victim: [1, *parameter.shape].
    shared={name: gradient[None] for name, gradient in private.shared_gradient(x, y, seed=0).items()},
    batch_size=1, image_shape=(1, 16, 16), mean=torch.zeros(1), std=torch.ones(1), labels=y[None],
    defense=private.in_force,  # None for a server that knows nothing of it
)
rebuilt = InvertingGradients(iterations=200).reconstruct(observation, seed=0)
print(f"mean absolute error of the rebuilt image: {(rebuilt.images[0, 0] - x[0]).abs().mean():.3f}")

suspects = Candidates(images, labels, pools=torch.arange(256)[None])
scores = Identifier().scores(observation, suspects, seed=0)
print(f"rank of the image among {len(images)}: {int((scores[0] < scores[0, 0]).sum()) + 1}")

private.module.train()
for _ in range(5):
    for x, y in private.data_loader:
        private.backward(x, y)  # fills p.grad with the gradient that leaves the client
        private.optimizer.step()
print(f"training accuracy: {(private.module.eval()(images).argmax(1) == labels).float().mean():.2f}")

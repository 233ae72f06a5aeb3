"""Write a network for Keras, for PyTorch, or as a StableHLO program. The same as `cnnjax export`.

    python experiments/export.py runs/vgg16/weights.safetensors --to keras --out vgg16.weights.h5
    python experiments/export.py imagenet --to torchvision --out vgg16.safetensors
    python experiments/export.py runs/cnn-augmented --to stablehlo --out cnn.stablehlo
    python experiments/export.py vgg16-397923af.pth --to cnnjax --out vgg16.safetensors

It reads Keras' .h5, .weights.h5 and .keras, PyTorch's .pth, .safetensors with the names of torchvision, timm or this
package, the folder of a run or of one of its checkpoints. A full VGG16 takes half a minute on two CPU cores.
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("export")

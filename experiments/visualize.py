"""Feature maps of an image, and filters and classes by gradient ascent. The same as `cnnjax visualize`.

    python experiments/visualize.py feature-maps --layer block1_conv1 block3_conv1 --channels 0 1 2 3
    python experiments/visualize.py filters --layer block3_conv3 --channels 4 8 15 --recipe quick
    python experiments/visualize.py classes --names hammer "tennis ball" --weights runs/vgg16-mini/weights.safetensors

With --weights imagenet the network is the article's VGG16, downloaded once; `--names lamp` then means "table lamp", as
in the article. --weights takes what `cnnjax.formats.load` reads: Keras' .h5, .weights.h5 and .keras, PyTorch's .pth,
.safetensors of torchvision, timm or cnnjax, the folder of a run. The images are display RGB, and each network is given
them as its weights require; --recipe article gives Caffe's weights raw values, as the article did.
Without --weights the network is vgg16: the real VGG16's convolutions, which are part of the package, with dense layers
for the fourteen rendered classes. Without --image the image is the photograph of a cat in the package. Every optimized
image is saved as a PNG file that contains its provenance, with the same as JSON beside it, and all of them are shown on
one sheet.

On two CPU cores with other work going on, with --weights vgg16-mini: 8 filters of block5_conv3 at 96², 500 steps, take
46 s; the article's 12 classes at 64², 600 steps, take 42 s.
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("visualize")

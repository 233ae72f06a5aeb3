"""The five most probable classes of images, with their probabilities. The same as `cnnjax classify`.

    python experiments/classify.py cnnjax/data/chelsea.png
    python experiments/classify.py photographs/ cat.jpg --weights imagenet --out runs/photographs

Without --weights the network is vgg16: the real VGG16's convolutions, which are part of the package, with dense layers
for the fourteen rendered classes. The figure shows twelve images at most, evenly spread over the files, each beside the
bars of its classes. classify.csv has all images, with a row for each class of an image. Images that cannot be read are
named and left out.

On two CPU cores with much other work going on, with --weights vgg16-mini at 64²: 1,008 JPEG files of 150² take 4 s; the
start and the figure take 8 s more.
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("classify")

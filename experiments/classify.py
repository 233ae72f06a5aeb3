"""The five most probable classes of images, with their probabilities. The same as `cnnjax classify`.

    python experiments/classify.py cnnjax/data/chelsea.png
    python experiments/classify.py photographs/ cat.jpg --weights imagenet --out runs/photographs

Without --weights the network is the small VGG16 that is part of the package, which knows fourteen drawn classes. A
figure shows images beside their bars, of many images a dozen, evenly spread; classify.csv has all of them, a row for
each class of an image. Images that cannot be read are named and left out.

Two CPU cores with much other work going on, the package's VGG16 at 64²: 1,008 JPEG files of 150² take 4 s, start and
figure 8 s more.
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("classify")

"""Every filter of a network beside the patches of a data set that activate it most. The same as `cnnjax atlas`.

    python experiments/atlas.py
    python experiments/atlas.py --weights vgg16 --no-include-top --filters-per-layer 64 --steps 96 --images-size 128

The page is runs/atlas/index.html, or index.html in the folder of --out. The first command draws all filters of
vgg16-mini, the narrow VGG16 that is part of the package. A run that was killed continues where it stopped when it is
started again; more layers or filters are added to those that are there.
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("atlas")

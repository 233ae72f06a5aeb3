"""Every filter of a network beside what of a data set fires it most, on one page. The same as `cnnjax atlas`.

    python experiments/atlas.py
    python experiments/atlas.py --weights vgg16 --no-include-top --filters-per-layer 64 --steps 96 --images-size 128

The first command draws all filters of the small VGG16 that is part of the package. A run that was killed goes on where
it stopped when it is started again; more layers or filters are added to those that are there.
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("atlas")

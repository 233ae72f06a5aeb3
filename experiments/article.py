"""The article, end to end: training, curves, feature maps, filters and classes, on one page. Also `cnnjax article`.

    python experiments/article.py

The work is divided into stages, each in a folder of `runs/article/`. A second run finds the finished ones; an
interrupted one continues where it stopped, training at its last epoch; `--fresh` starts over.

The page is runs/article/index.html. On two CPU cores beside other work and with empty caches it takes 14 min 12 s. With
one seed, the validation accuracy at the lowest validation loss is 78.6% without and 87.1% with augmentation (version 4
of the renderer).
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("article")

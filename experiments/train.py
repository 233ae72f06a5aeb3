"""Train one preset, with any of its values changed by flags. The same as `cnnjax train`.

    python experiments/train.py cnn
    python experiments/train.py cnn-augmented --data.image-size 64 --train.epochs 40 --seeds 0 1 2
    python experiments/train.py cnn --run runs/mine --resume

A run is a folder (runs/PRESET, or --run) with config.json, metrics.jsonl, checkpoints/, weights.safetensors (the best
epoch), test.json and curves.png. With --seeds the training is repeated, one sub-folder for each seed, and summary.json
has the mean and the standard deviation. A seed determines the initial weights, the order of the images, dropout and
augmentation. The images are determined by --data.seed.
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("train")

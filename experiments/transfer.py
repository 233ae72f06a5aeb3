"""Other classes from few images: a new head on a trained VGG, then fine-tuning. The same as `cnnjax transfer`.

    python experiments/transfer.py
    python experiments/transfer.py --data.classes axe shovel fox bear --run runs/transfer-four
    python experiments/transfer.py --data.source folder:PATH --data.image-size 150 --weights imagenet

This is the next step of the article's source (Chollet, 2016, "Building powerful image classification models using very
little data"). For comparison the small CNN is trained from scratch on the same images, without and with augmentation.
Without --weights the base is vgg16-mini, the narrow VGG16 that is part of the package. It was not trained on the new
classes.

RUN/seed-N/ holds four runs: head, fine-tune, small-cnn and small-cnn-augmented. RUN has summary.json and curves.png.
Runs that were stopped by SIGTERM or Ctrl-C continue with --resume; the training of a head starts over, which takes
seconds.

Measured with the first edition, whose images are those of --data.rendering 3: fox against axe, 100 training images per
class, 500 for validation and 500 for test, 64 × 64 pixels; mean ± standard deviation over the seeds 0, 1, 2; parameters
of the lowest validation loss. Two CPU cores with much other work going on, about 11 minutes of CPU time altogether.

    new head, base frozen      test 96.6 ± 0.1%    30 epochs in 2 to 3 s, after the features have been computed
    then block 5 fine-tuned    test 96.5 ± 0.1%    12 epochs in 75 s
    small CNN from scratch     test 76.8 ± 5.2%    17 to 20 epochs of 50 steps in 2 min
    small CNN, augmented       test 89.6 ± 3.9%    22 to 40 epochs of 50 steps in 5 to 7 min
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("transfer")

"""Films: an ascent from noise to image, filters while a network is trained, feature maps layer by layer. The same as
`cnnjax film`.

    python experiments/film.py ascent --layer block5_conv3 --channels 41 84 103 461 --out runs/ascent.gif
    python experiments/train.py cnn --train.weights-every-epochs 1 --run runs/born
    python experiments/film.py training --run runs/born --layer conv_3 --out runs/born.gif
    python experiments/film.py feature-maps --out runs/maps.gif

The film of a training run draws all states of the network from the same noise with the same transforms, in one program
that is vmapped over the states. So the difference between two frames is due to the network alone.
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("film")

"""What in images speaks for a class, by ten methods side by side. The same as `cnnjax explain`.

    python experiments/explain.py
    python experiments/explain.py cat.jpg dog.jpg --weights runs/cnn-augmented --class-name cat
    python experiments/explain.py photographs/ --weights imagenet --methods grad-cam integrated-gradients --out runs/why

Without --weights the network is vgg16, the real VGG16's convolutions with dense layers for the fourteen rendered
classes; vgg16-mini is faster. The sheet explain.png has a row for each image and a column for each method, with the
class and its probability; each heat map is also written to a file of its own. With --class-name the maps explain the
logit of that class, even if another class is more probable.
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("explain")

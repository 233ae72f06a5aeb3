"""What in images speaks for a class, by ten methods side by side. The same as `cnnjax explain`.

    python experiments/explain.py
    python experiments/explain.py cat.jpg dog.jpg --weights runs/cnn-augmented --class-name cat
    python experiments/explain.py photographs/ --weights imagenet --methods grad-cam integrated-gradients --out runs/why

Without --weights the network is the small VGG16 that is part of the package, which knows fourteen drawn classes. The
sheet explain.png has a row for each image and a column for each method, with the class and its probability; each heat
map is also a file of its own. With --class-name the maps speak for this class, also where another one is likelier.
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("explain")

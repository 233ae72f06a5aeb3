"""A labelled contact sheet of the procedural classes. The same as `cnnjax contact-sheet`.

    python experiments/contact_sheet.py
    python experiments/contact_sheet.py --classes cat dog --count 24 --image-size 75 --out runs/cats-and-dogs.png

Column k of every class is rendered from the same key: background, light and camera are the same, the subject differs.
The README's docs/contact-sheet.jpg was made by

    python experiments/contact_sheet.py --count 8 --image-size 96 --out docs/contact-sheet.jpg
"""

from cnnjax.__main__ import run

if __name__ == "__main__":
    run("contact-sheet")

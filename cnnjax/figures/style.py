"""Colors and sizes that all figures share."""

Color = str | tuple[float, ...]

WIDTH = 760  # CSS pixels
INK, MUTED, RULE, PAPER = "#22303c", "#6a7783", "#cfd6dc", "#ffffff"
BLUE, RED, GREEN, GOLD, PLUM = "#2f6690", "#c8553d", "#3a8f6b", "#d8a031", "#7d5a8c"
TINTS = {BLUE: "#dbe7f1", RED: "#f8e0d9", GREEN: "#d9eee4", GOLD: "#f8ecd0", PLUM: "#e8deed"}
SMALL, BODY, HEAD = 8.5, 9.5, 11.0  # points; one point is 1.39 CSS pixels

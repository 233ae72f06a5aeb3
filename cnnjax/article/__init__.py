"""The article, recomputed: worked examples, training runs, visualizations, captions, and the page that shows them.

`run.run` makes everything in stages. The drawings that only the page uses are in `cnnjax.figures.worked_examples`,
because matplotlib is imported in `cnnjax.figures` only.
"""

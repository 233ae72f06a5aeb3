"""The worked examples of the article, the captions, and the page that holds them."""

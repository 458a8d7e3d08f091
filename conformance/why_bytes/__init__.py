"""Why prepared bytes are wrong: the edit of the layout or its bytes that gives them."""

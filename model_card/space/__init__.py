"""What goes into a Hugging Face Space: the app and its README. `space_release.py` assembles them."""

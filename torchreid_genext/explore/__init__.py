"""Something to play with: searches that explain themselves, people in poses, identity codes, on a page.

What is computed lies in plain functions; `app` alone knows Gradio, and wires.
"""

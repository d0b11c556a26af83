"""Readers of the annotation files that others publish, and the rows that are made of their records.

`published_*` keep records as published, for training and evaluation; the other readers clean them for training and
count what they drop in a `RecordReport`. The builders (`a5_222k`, `image_text`, `instruction`, `pu_valor`) use them.
"""

"""Readers of the annotation files that others published, one module per family of formats.

Each reader is a generator function over plain records that tells a `CurationReport` what it drops and why. The
builders (`a5_222k`, `image_text`, `instruction`) turn the records into rows; no reader opens a media file.
"""

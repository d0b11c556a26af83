"""The models of this plugin by name: module of this folder -> class in it, as lmms-eval looks them up."""

AVAILABLE_MODELS = {"avicuna": "AVicuna"}

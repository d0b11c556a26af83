"""AVicuna as an out-of-tree model of lmms-eval, through its plugin variable; run from the checkout:

    LMMS_EVAL_PLUGINS=eval.lmms_plugin python -m lmms_eval --model avicuna --model_args pretrained=DIR --tasks NAME ...

lmms-eval is not a dependency of this project: only its own process imports `models/avicuna.py`.
"""

"""Which characters make a word, in any script: shared by the metrics that compare text.

`evaluate` copies a metric's folder, and nothing beside it, into its module cache, so the folders that need this file
hold a link to it. Pure strings; no metric is computed here.
"""

# Scripts without spaces between words (Thai, Lao, Myanmar, Khmer, Kana, Han): each character counts as a word.
UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
# Letters, digits, and the combining marks that belong to a letter (accents, Hebrew, Arabic and Indic vowel signs).
LETTER = (
    rf"(?!{UNSPACED}|[\u0964\u0965])"
    r"(?:[^\W_]|[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0dff])"
)

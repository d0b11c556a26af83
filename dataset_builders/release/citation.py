"""The BibTeX entry that the cards show. `CITATION.cff` has the same content; a test compares them."""

BIBTEX = """\
@inproceedings{tang2025avicuna,
  title     = {Empowering {LLM}s with Pseudo-Untrimmed Videos for Audio-Visual Temporal Understanding},
  author    = {Tang, Yunlong and others},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2025},
  url       = {https://arxiv.org/abs/2403.16276}
}"""

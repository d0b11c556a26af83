"""How to cite the paper: the one home of the BibTeX entry that cards show. `CITATION.cff` says the same; a test
compares them."""

BIBTEX = """\
@inproceedings{tang2025avicuna,
  title     = {Empowering {LLM}s with Pseudo-Untrimmed Videos for Audio-Visual Temporal Understanding},
  author    = {Tang, Yunlong and others},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2025},
  url       = {https://arxiv.org/abs/2403.16276}
}"""

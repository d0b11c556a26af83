"""The BibTeX entry of the cards agrees with CITATION.cff."""

import re

import yaml

from dataset_builders.release.citation import BIBTEX


def test_bibtex_and_citation_file_describe_the_same_paper(project_dir):
    paper = yaml.safe_load((project_dir / "CITATION.cff").read_text(encoding="utf-8"))["preferred-citation"]
    entry = {
        name: value.replace("{", "").replace("}", "") for name, value in re.findall(r"(\w+)\s*= \{(.*)\},?\n", BIBTEX)
    }
    assert set(entry) == {"title", "author", "booktitle", "year", "url"}
    assert (entry["title"], entry["booktitle"]) == (paper["title"], paper["collection-title"])
    assert (int(entry["year"]), entry["url"]) == (paper["year"], paper["url"])
    first = paper["authors"][0]
    assert entry["author"].split(" and ")[0] == f"{first['family-names']}, {first['given-names']}"

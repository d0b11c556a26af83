"""Reports, cards and folders of a built data set: what a release holds beside its rows."""

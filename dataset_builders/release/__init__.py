"""Reports, dataset cards and release folders of a built data set: everything in a release except its rows."""

"""Release folders: assembled from a checkpoint or a built data set, checked, tried in a fresh process, uploaded."""

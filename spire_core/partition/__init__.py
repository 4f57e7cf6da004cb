"""The split of a labelled data set over clients."""

"""Sources of labelled images: folders, archives, data sets of libraries, and synthetic drawings."""

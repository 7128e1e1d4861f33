"""Server of pages: a corpus, its images, its keep rule and its reports, to look at."""

"""Where one machine is not enough: bulk detection and the trials of a search on Ray."""

"""leandet: the fastest NMS-free object detector that a machine can run."""

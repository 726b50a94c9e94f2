"""People's own folders of images as torchreid data sets, by the name ``folder:PATH``."""

"""The gallery: one self-contained HTML page with the caption and the frames of each clip."""

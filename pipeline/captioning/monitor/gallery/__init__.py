"""The gallery: captions beside the frames of their clips, in one self-contained HTML page."""

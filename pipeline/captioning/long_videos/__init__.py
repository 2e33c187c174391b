"""The description of a long video segment by segment, and the formats in which it is written."""

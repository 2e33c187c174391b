"""Meta tables before and after captioning: made from folders, merged, compared, filtered, cleaned."""

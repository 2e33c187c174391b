"""Fetch clips whose path is a URL into a temporary file, before they are decoded.

`urls.py` tells URLs from local paths, `file.py` is the temporary file, `limits.py` has the limits, `hosts.py` knows
which servers seem to be down. These are all that the worker imports. `download.py` runs in the decoding process;
`http.py` and `s3.py` are what it knows of the two kinds of URL, and `redirects.py` refuses redirects to other hosts.
"""

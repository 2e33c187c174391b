"""Clients of the captioning server, for the command line. They also work with other services of OpenAI's protocol.

`connection` sends questions; `clips` decodes clips and asks about each of them; `content` is what is sent of a clip.
Each command has a module of its own. No framework is imported.
"""

"""The captioning server: HTTP in one process, and a process with the loaded model for each device.

`http` speaks the protocol, `devices` passes questions to the device processes, `device` is what runs in each of them.
`messages` is all that they say to each other.
"""

"""The device processes as the HTTP process sees them: start, restart, the least loaded one, answers.

`devices` has all of them, `device` one with its questions, `process` the operating-system process and its messages;
`open_question` and `answer_text` are what the client of a question sees. `places` says where the processes run.
"""

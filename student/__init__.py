"""Training of a student from stored or live teacher labels. The command line is `student`."""

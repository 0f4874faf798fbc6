"""Training a student from stored or live teacher labels. `student` is its command line."""

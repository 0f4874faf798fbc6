"""Jobs over a whole dataset: planning, running and reporting them. `teacher-cache` is their command line."""

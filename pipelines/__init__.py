"""Plan, run and report jobs over a whole dataset. The command line is `teacher-cache`."""
